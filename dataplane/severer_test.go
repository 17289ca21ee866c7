package dataplane

import (
	"log/slog"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
)

// Whatever keeps the agent from ending connections is said once, and taken back when nothing is left to end.
func TestWhatCanNotBeSeveredIsSaid(t *testing.T) {
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	var pid atomic.Int64
	pid.Store(int64(ended.Process.Pid)) // its connections can't be read
	said := 0
	s := newSeverer(func() int { return int(pid.Load()) }, func() { said++ }, slog.New(slog.DiscardHandler))
	expect := func(what string, trouble bool, times int) {
		t.Helper()
		s.look(t.Context())
		if got := s.unsevered(); (got != "") != trouble || said != times {
			t.Errorf("%s: %q, said %d times", what, got, said)
		}
	}
	expect("nothing to sever", false, 0)
	s.set([]*enrolpb.Address{{Ip: "192.0.2.1", Port: 15443}})
	expect("it can't", true, 1)
	expect("it still can't", true, 1)
	pid.Store(int64(os.Getpid())) // which is connected to nothing of the kind
	expect("nothing is left", false, 2)
}
