package federation

import "testing"

// TestTogether: what is set together is told once, and goes up in one report.
func TestTogether(t *testing.T) {
	b := NewStatusBook("epoch")
	told := 0
	b.onChange(func() { told++ })
	r := reporter{book: b}
	r.start("epoch", 0)
	b.Together(func() {
		for _, bucket := range Buckets() {
			b.Set(bucket, "key", []byte("1"))
		}
		b.Set(BucketStatus, "gone", []byte("1"))
		b.Set(BucketStatus, "gone", nil)
	})
	if got, want := len(r.next().GetRecords()), len(Buckets())+1; told != 1 || got != want {
		t.Errorf("told %d times, %d records in the first report, want %d", told, got, want)
	}
	b.Together(func() { b.Set(BucketStatus, "key", []byte("1")) })
	if told != 1 {
		t.Error("told of no change")
	}
	// Global has all of it: the deletion is forgotten, the rest stays.
	b.forget(b.seq)
	if b.gone != 0 || len(b.entries) != len(Buckets()) {
		t.Errorf("%d deletions and %d entries are left", b.gone, len(b.entries))
	}
}
