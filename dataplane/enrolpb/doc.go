// Package enrolpb is the wire form of the protocol between dataplane agents and their zone, generated
// from enrol.proto.
package enrolpb
