// Command comity is how people and scripts speak with global and with zones: kubectl's grammar, the same
// REST API as everybody else, errors in four parts.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/comity-mesh/comity/internal/fault"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := newRoot(terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv})
	cmd, err := root.ExecuteContextC(ctx)
	if errors.Is(err, errDiffers) {
		os.Exit(exitDiffers)
	}
	if err != nil {
		os.Exit(fault.Print(os.Stderr, asFault(cmd, err)))
	}
}
