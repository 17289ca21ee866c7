// Package fedserver is global's end of the federation: it lets zones join by token, renews their
// certificates, and holds one session with each, over which global's resources and the other zones'
// statements go down and the zone's resources, statements and statuses come up.
//
// What it keeps in the store's records:
//
//	jointokens          by token id: public half, zone, expiry, who used it
//	identities          by zone: incarnation, trust domain, pinned key, active certificate; a removed or
//	                    revoked zone's stays as a tombstone, with who has confirmed the revocation
//	sessions            by zone: the epoch of the newest session
//	zones               by zone: mesh.ZoneStatus
//	status/<zone>       by mesh.Key.String: mesh.ResourceStatus
//	proxies/<zone>      by mesh.ProxyID.String: mesh.ProxyStatus
//	services/<zone>     what the zone shows of its services
//	status-positions    by zone: how far the zone's status book is kept
//	statements/<zone>   by kind/subject: the signed statement in protobuf form
//	federation/cursors  by zone: the cursor of the zone's own log
//
// A client that joins needs the connection's TLS exporter before its first call: it makes the TLS session
// itself and hands it to gRPC as an established connection.
package fedserver
