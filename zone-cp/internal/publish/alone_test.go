package publish

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/zone-cp/internal/exports"
	"github.com/comity-mesh/comity/zone-cp/internal/imports"
	"github.com/comity-mesh/comity/zone-cp/internal/keys"
	"github.com/comity-mesh/comity/zone-cp/internal/peering"
)

// alone is the peering of a zone without ingresses.
func alone(t testing.TB, records store.Records, book *imports.Book, ledger *exports.Ledger) *peering.Hub {
	t.Helper()
	h, err := peering.Open(t.Context(), peering.Config{
		Zone: "east", Records: records, Book: book, Statements: ledger.All, Statuses: federation.NewStatusBook("00"),
		Connected: func() bool { return true }, TrustUntil: forever, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func forever(policy.TrustSettings, time.Time) time.Time { return time.Time{} }

// issuerKeys fetches nothing.
func issuerKeys(tb testing.TB, s store.Records) *keys.Fetcher {
	tb.Helper()
	f, err := keys.New(tb.Context(), keys.Config{Records: s, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		tb.Fatal(err)
	}
	return f
}
