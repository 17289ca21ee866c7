// Package fedclient is the zone's end of the federation: it joins a mesh, keeps the zone's certificate
// toward global fresh, and holds the one session over which global's resources and the other zones'
// statements come down, and the zone's own resources, statements and statuses go up. Nothing in the
// zone waits for it.
package fedclient
