package main

import (
	"maps"
	"math/rand/v2"
	"slices"
)

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func mean(v ...float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// estimate is a median with the interval in which the median of so many other rounds would lie, 95 times of 100.
type estimate struct{ value, low, high float64 }

// estimateOf draws rounds again and again from those that there are (the percentile bootstrap).
func estimateOf(rounds []float64) estimate {
	const draws = 2000
	source := rand.New(rand.NewPCG(1, uint64(len(rounds)))) //nolint:gosec // the same rounds, the same interval
	medians, again := make([]float64, draws), make([]float64, len(rounds))
	for i := range medians {
		for j := range again {
			again[j] = rounds[source.IntN(len(rounds))]
		}
		medians[i] = median(again)
	}
	slices.Sort(medians)
	return estimate{median(rounds), medians[draws*25/1000], medians[draws*975/1000]}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
