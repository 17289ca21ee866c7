// Package dns answers an application's questions for names (RFC 1035): those of the mesh by virtual addresses, which the zone
// told the agent, and all others as the machine's own resolvers do. It serves this machine alone, keeps nothing of what it passes
// on, and goes on answering while the zone is away.
package dns
