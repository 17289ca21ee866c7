// Package ads serves a zone's proxies over delta ADS: it authorises each stream, gives it the view that
// its proxy is assigned to, and reports what proxies acknowledge and refuse. What a stream is sent, and
// when, is decided by the state machine of xds/snapshot; this package adds streams, locks and clocks.
package ads
