package rig

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/comity-mesh/comity/api/client"
)

// Connect makes a client of a control plane by the file with its administrator's token.
func Connect(api, tokenFile string) (*client.Client, error) {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{Server: "http://" + api, Token: strings.TrimSpace(string(token))})
}

// Poll asks until f has no objection, for at most half a minute.
func Poll(ctx context.Context, what string, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: not within half a minute: %w", what, err)
		}
	}
}
