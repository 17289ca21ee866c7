package nearest_test

import (
	"testing"

	"github.com/comity-mesh/comity/internal/nearest"
)

func TestWord(t *testing.T) {
	for _, c := range []struct {
		typed string
		known []string
		want  string
	}{
		{"webb", []string{"pay", "web"}, "web"},
		{"prot", []string{"name", "port", "protocol"}, "port"},
		{"proto", []string{"name", "port", "protocol"}, "protocol"}, // begun
		{"prt", []string{"name", "port", "protocol"}, "port"},
		{"TargetRef", []string{"rules", "targetRef"}, "targetRef"},
		{"auth", []string{"authorizationpolicies", "zones"}, "authorizationpolicies"},
		{"cart", []string{"card", "mart"}, "card"}, // the first letter is hardly ever mistaken
		{"shop", []string{"bank", "team-b"}, ""},
		{"eu", []string{"us"}, ""}, // nothing of it would be left
		{"", []string{"web"}, ""},
		{"web", nil, ""},
	} {
		if got := nearest.Word(c.typed, c.known); got != c.want {
			t.Errorf("Word(%q, %v) = %q, want %q", c.typed, c.known, got, c.want)
		}
	}
	if got := nearest.Question("zoness", []string{"zones"}); got != "did you mean zones?" {
		t.Error(got)
	}
	if got := nearest.Question("x", []string{"zones"}); got != "" {
		t.Error(got)
	}
}
