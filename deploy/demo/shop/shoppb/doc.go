// Package shoppb is the gRPC form of the demo shop's payment service, generated from shop.proto.
package shoppb
