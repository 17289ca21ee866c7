// Command comity is how people and scripts speak with global and with zones: kubectl's grammar, the same
// REST API as everybody else, errors in four parts.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/comity-mesh/comity/internal/fault"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	cmd := newRoot(terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv})
	if err := cmd.ExecuteContext(ctx); err != nil {
		os.Exit(fault.Print(os.Stderr, asFault(err)))
	}
}
