package fault_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/internal/fault"
)

func TestPrintShowsFourPartsOfAWrappedError(t *testing.T) {
	base := &fault.Error{
		Code: "ZONE-TOKEN", What: "the zone can't join", Cause: "the token has expired",
		Try: "make a new one:\ncomity zone create west", Docs: "docs/joining.md", Exit: fault.ExitDenied, Err: fs.ErrPermission,
	}
	var out strings.Builder
	code := fault.Print(&out, fmt.Errorf("start zone-cp: %w", base))

	want := `error[ZONE-TOKEN]: the zone can't join
  cause: start zone-cp: the token has expired
  try:   make a new one:
         comity zone create west
  docs:  docs/joining.md
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
	if code != fault.ExitDenied {
		t.Errorf("exit code %d, want %d", code, fault.ExitDenied)
	}
	if !errors.Is(base, fs.ErrPermission) {
		t.Error("the underlying error is lost")
	}
}

func TestPrintOfOtherErrors(t *testing.T) {
	var out strings.Builder
	if code := fault.Print(&out, errors.New("disk full")); code != fault.ExitFailure || out.String() != "error: disk full\n" {
		t.Errorf("got %d %q", code, out.String())
	}
	out.Reset()
	if code := fault.Print(&out, nil); code != fault.ExitOK || out.Len() != 0 {
		t.Errorf("nil gave %d %q", code, out.String())
	}
	out.Reset()
	fault.Print(&out, &fault.Error{Code: "X", What: "it broke", Err: errors.New("because")})
	if want := "error[X]: it broke\n  cause: because\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}
