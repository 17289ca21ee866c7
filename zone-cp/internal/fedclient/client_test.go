package fedclient

import (
	"testing"
	"time"
)

// TestRetriesOfSessionsThatEndAtOnce counts how often a zone comes back whose sessions open and end, as on a full disk.
func TestRetriesOfSessionsThatEndAtOnce(t *testing.T) {
	retry, at, tries := newRetries(), time.Duration(0), 0
	for at < 5*time.Minute {
		const lasted = 20 * time.Millisecond
		at += lasted + retry.after(lasted)
		tries++
	}
	if tries > 60 {
		t.Errorf("%d sessions in 5 minutes", tries)
	}
	// One that went well makes the next wait short again.
	if wait := retry.after(time.Hour); wait > 2*firstRetry {
		t.Errorf("%s after a good session", wait)
	}
}
