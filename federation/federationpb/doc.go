// Package federationpb is the wire form of the protocol between zones and global, generated from
// federation.proto.
package federationpb
