package main

import (
	"strings"
	"testing"
)

// TestBlame: a service that fails of what it calls is not the one to be mended.
func TestBlame(t *testing.T) {
	for name, c := range map[string]struct {
		pairs map[string]map[string]called
		// want is, of cart and pay, the level, the cause and a word of the message.
		cart, pay [3]string
	}{
		"nothing is known": {nil, [3]string{"error", "", "bad."}, [3]string{"error", "", "bad."}},
		"cart fails of pay": {
			map[string]map[string]called{"shop/cart": {"shop/pay": {requests: 10, failed: 9}, "shop/other": {requests: 1000, failed: 20}}},
			[3]string{"info", "failing/shop/pay", "Its own requests to shop/pay fail (9 of 10)."}, [3]string{"error", "", "bad."},
		},
		"cart may not call pay": {
			map[string]map[string]called{"shop/cart": {"shop/pay": {requests: 10, refused: 10}}},
			[3]string{"error", "refused/shop/pay", "refused with 4xx (10 of 10), as those of who lacks the permission"}, [3]string{"error", "", "bad."},
		},
		"each fails of the other": {
			map[string]map[string]called{"shop/cart": {"shop/pay": {requests: 10, failed: 9}}, "shop/pay": {"shop/cart": {requests: 10, failed: 9}}},
			[3]string{"error", "failing/shop/pay", "to shop/pay fail"}, [3]string{"error", "failing/shop/cart", "to shop/cart fail"},
		},
		"pay fails of what is not known to fail": {
			map[string]map[string]called{"shop/cart": {"shop/pay": {requests: 10, failed: 9}}, "shop/pay": {"bank/ledger": {requests: 10, failed: 9}}},
			[3]string{"info", "failing/shop/pay", "to shop/pay fail"}, [3]string{"error", "failing/bank/ledger", "to bank/ledger fail"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			all := []finding{{Level: "error", Message: "bad."}, {Level: "error", Message: "bad."}}
			failing := map[string]int{"shop/cart": 0, "shop/pay": 1}
			blame(&all[0], "shop/cart", []string{"shop/cart"}, c.pairs)
			blame(&all[1], "shop/pay", []string{"shop/pay"}, c.pairs)
			excuse(all, failing)
			for i, want := range [][3]string{c.cart, c.pay} {
				if f := all[i]; f.Level != want[0] || f.Cause != want[1] || !strings.Contains(f.Message, want[2]) {
					t.Errorf("%+v, want %q", f, want)
				}
			}
		})
	}
}
