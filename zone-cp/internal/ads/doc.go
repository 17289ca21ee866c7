// Package ads serves a zone's proxies over delta ADS, and applications without a proxy over its
// state-of-the-world variant: it authorises each stream, gives it the view that its proxy is assigned to,
// and reports what proxies acknowledge and refuse. What a stream is sent, and when, is decided by the
// state machines of xds/snapshot; this package adds streams, locks and clocks.
package ads
