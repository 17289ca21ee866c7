package api

import (
	"context"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
)

// unheard says why a zone's words are not of now, nil if they are. It is the only judge of that: tables, attention and the console
// follow it. A zone speaks for nobody but itself, and hears itself.
func unheard(mode Mode, z client.ZoneOverview) *mesh.Unheard {
	switch {
	case mode == ModeZone:
		return nil
	case z.Spec.Revoked != nil:
		return &mesh.Unheard{Reason: mesh.UnheardRevoked, Since: z.Status.LastSeen}
	case !z.Status.Joined:
		return &mesh.Unheard{Reason: mesh.UnheardNotJoined}
	case !z.Status.Connected:
		return &mesh.Unheard{Reason: mesh.UnheardAway, Since: z.Status.LastSeen}
	}
	return nil
}

// heardZone is a zone of which something is answered, and whether its words are of now.
type heardZone struct {
	name    string
	unheard *mesh.Unheard
}

// heardZones are the zones whose words this control plane has: all at global, itself at a zone.
func (s *server) heardZones(ctx context.Context) ([]heardZone, error) {
	if s.cfg.Mode == ModeZone {
		return []heardZone{{name: s.cfg.ZoneName}}, nil
	}
	list, err := s.overviewZones(ctx, &facts{})
	if err != nil {
		return nil, err
	}
	out := make([]heardZone, len(list))
	for i, z := range list {
		out[i] = heardZone{z.Name, z.Unheard}
	}
	return out, nil
}
