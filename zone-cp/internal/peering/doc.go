// Package peering is the zone's way to the other zones without global: through its ingresses, which probe the others'
// ingresses and carry words to the control planes behind them.
//
//	hub       what the parts below have in common, and what the zone asks of it
//	agent     one ingress that attends: what it is told, what it reports
//	verdict   whether an ingress of another zone can be reached: all probers agree, or it can
//	exchange  the zone's own statements to zones that ask for them, and theirs to the book of imports
//	talk      one session: what waits in it, how much it may ask of us, and when it ends
//	links     mesh.LinkStatus, for people and for global
//
// A zone tells another its own statements only; what it knows of third zones it doesn't pass on, because every two
// zones that use each other are in touch themselves.
package peering
