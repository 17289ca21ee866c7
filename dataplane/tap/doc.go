// Package tap shows live requests of the Envoy of this machine to whoever asks through the zone.
//
// Envoy tells of every request and connection over the access log service, on the agent's own socket, while a value in its
// runtime says so. That value is set while somebody watches, so that nobody pays when nobody does; where there is too much, it is set
// to a share. What is told is filtered and bounded here, before it leaves the machine, and reduced to what may leave it: no header,
// no body, no query.
package tap
