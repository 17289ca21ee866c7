package inspect

import (
	"context"
	"errors"
	"testing"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
)

// TestBoundsApart: as many proxies as may be are followed, and one more is not; questions of another bound are put all the same.
func TestBoundsApart(t *testing.T) {
	d := NewDesk(func(mesh.ProxyID, *enrolpb.Ask) error { return errors.New("told") })
	take := func([]byte) error { return nil }
	for range maxFollowed {
		if _, _, err := d.begin(mesh.ProxyID{}, maxFollowed, take); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := d.begin(mesh.ProxyID{}, maxFollowed, take); err == nil {
		t.Error("more are followed than may be")
	}
	if _, err := d.Try(context.Background(), mesh.ProxyID{}, nil); err == nil || !errors.Is(err, ErrSilent) || err.Error() != "it does not answer: told" {
		t.Errorf("a trial: %v", err)
	}
	id, _, err := d.begin(mesh.ProxyID{}, maxTrials, take)
	if err != nil {
		t.Fatal(err)
	}
	d.end(id)
	if len(d.open) != maxFollowed {
		t.Errorf("%d are open", len(d.open))
	}
}
