package main

import (
	"github.com/comity-mesh/comity/mesh"
)

// unknown stands in a column for what nobody knows at present.
const unknown = "?"

// notHeard is what a person is told of a zone whose word is not of now, empty if it is.
func notHeard(zone string, u *mesh.Unheard) string {
	switch {
	case u == nil:
		return ""
	case u.Reason == mesh.UnheardRevoked:
		return "zone " + zone + " is revoked"
	case u.Reason == mesh.UnheardNotJoined:
		return "zone " + zone + " has not joined"
	case u.Since.IsZero():
		return "zone " + zone + " is not connected"
	}
	return "zone " + zone + " not heard of for " + age(u.Since)
}

// knownOr gives what a zone says if its word is of now.
func knownOr(u *mesh.Unheard, said string) string {
	if u != nil {
		return unknown
	}
	return said
}

// proxyState is how a proxy does, in a word and with what was ordered about it.
func proxyState(p mesh.ProxyStatus) string {
	if why := notHeard(p.Zone, p.Unheard); why != "" {
		return "Unknown (" + why + ")"
	}
	word := "Healthy"
	switch {
	case !p.Connected:
		word = "Disconnected"
	case !p.Healthy:
		word = "Unhealthy"
	}
	if p.Draining {
		word += ",Draining"
	}
	return word
}
