// Package peer keeps an ingress in touch with the ingresses of the other zones: it probes whether they can
// be reached on the data path, answers their probes, and passes on what the zones' control planes say
// to each other when global is away (dataplane/peerpb).
//
//	roster   who is known, and by which roots
//	link     the way to one ingress: pings, suspicion, a fresh handshake, a verdict
//	serve    the other direction: who may open a session here, and how much of everything
//	session  one stream, either way: frames out, words in, both bounded
//
// mTLS ends here, with the ingress's own certificate, whose key stays in the agent. A peer is exactly an
// ingress of the zone that it says it is, under that zone's own roots. The agent believes nothing of
// what it passes on, and doesn't read it.
package peer
