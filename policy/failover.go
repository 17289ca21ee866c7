package policy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// FailoverPolicy says which zones serve a service, in which order, and when its traffic moves. Of several
// that apply the most specific decides alone: they don't add up.
type FailoverPolicy struct {
	// TargetRef is a Service of the policy's own namespace, or nil for all of the namespace; in namespace
	// "comity-system" nil means the whole mesh.
	TargetRef *TargetRef `json:"targetRef,omitempty"`
	// Mode says whether traffic moves by itself. Default Auto.
	Mode FailoverMode `json:"mode,omitempty"`
	// Active names the tier to which a person switched the traffic (mode Armed only). Default: the first
	// tier that has the service.
	Active string `json:"active,omitempty"`
	// Tiers in the order in which they are used. A zone belongs to the first that names it; what none names
	// gets nothing. Without tiers there are four, named "zone" (the caller's own), "region" (others of its
	// cloud and region), "cloud" (others of its cloud) and "mesh" (all others).
	Tiers []FailoverTier `json:"tiers,omitempty"`
	// Threshold is the percentage of its whole capacity that a tier must have ready to carry everything;
	// below it, what it can't carry goes to the next. The whole is what was declared or last seen ready.
	// Default 70: with 7 of 10 all traffic stays, with 6 of 10 a seventh of it moves. It stands for how busy
	// the tier is when whole: at 70 the rest of it has room for three tenths more.
	Threshold *uint32 `json:"threshold,omitempty"`
	// Dwell is how long traffic that left a zone stays away at least. Default 10s: what comes and goes within
	// it moves traffic once, not at each turn.
	Dwell gatewayv1.Duration `json:"dwell,omitempty"`
	// FailbackDelay is how long a recovery must last before it is believed. Default 5s: a process that
	// crashes at start mostly does so earlier.
	FailbackDelay gatewayv1.Duration `json:"failbackDelay,omitempty"`
}

// FailoverMode says whether traffic moves by itself.
type FailoverMode string

// The modes of a FailoverPolicy.
const (
	// FailoverAuto moves traffic by itself.
	FailoverAuto FailoverMode = "Auto"
	// FailoverArmed never leaves the active tier until a person names another one: for what must be made
	// ready first, as a database that is to be promoted.
	FailoverArmed FailoverMode = "Armed"
	// FailoverOff never leaves the first tier that has the service.
	FailoverOff FailoverMode = "Off"
)

// FailoverTier is a set of zones that are used together.
type FailoverTier struct {
	Name  string      `json:"name"`
	Zones []TierZones `json:"zones"`
}

// TierZones names zones of a tier in one of three ways: by name, by cloud and region, or as the caller's own.
type TierZones struct {
	Zone string `json:"zone,omitempty"`
	// Cloud, Region or both, as in Zone.spec.
	Cloud  string `json:"cloud,omitempty"`
	Region string `json:"region,omitempty"`
	// Local is the zone of the caller.
	Local bool `json:"local,omitempty"`
	// Weight of each of these zones within the tier, for each unit of its ready capacity. Default 1.
	Weight *uint32 `json:"weight,omitempty"`
}

// The defaults of a FailoverPolicy, each with its reason at the field.
const (
	DefaultThreshold     = 70
	DefaultDwell         = 10 * time.Second
	DefaultFailbackDelay = 5 * time.Second
)

// ImplicitTiers are the names of the tiers of a policy that lists none, in their order.
func ImplicitTiers() []string { return []string{"zone", "region", "cloud", "mesh"} }

// WithDefaults fills in what was left out.
func (p FailoverPolicy) WithDefaults() FailoverPolicy {
	p.Mode = cmp.Or(p.Mode, FailoverAuto)
	if p.Threshold == nil {
		p.Threshold = new(uint32(DefaultThreshold))
	}
	return p
}

// Times are dwell and failback delay, the defaults filled in.
func (p FailoverPolicy) Times() (dwell, failbackDelay time.Duration) {
	return durationOr(p.Dwell, DefaultDwell), durationOr(p.FailbackDelay, DefaultFailbackDelay)
}

// Bounds of a FailoverPolicy.
const (
	maxTiers     = 16
	maxTierZones = 64
	maxWeight    = 1000
)

func validateFailoverPolicy(r *report, res mesh.Resource, p *FailoverPolicy) {
	validateTargetRef(r, res, p.TargetRef)
	r.oneOf("/spec/mode", string(p.Mode), "", string(FailoverAuto), string(FailoverArmed), string(FailoverOff))
	if p.Threshold != nil {
		r.number("/spec/threshold", p.Threshold, 1, 100)
	}
	r.duration("/spec/dwell", p.Dwell, 0, time.Hour)
	r.duration("/spec/failbackDelay", p.FailbackDelay, 0, time.Hour)
	if p.Tiers != nil && len(p.Tiers) == 0 {
		// An empty list from a template must not mean "nobody", nor "everybody".
		r.add(FieldError{Pointer: "/spec/tiers", Code: CodeRequired, Message: "a list that is given must not be empty", Hint: "leave it out for the default: own zone, region, cloud, mesh"})
	}
	r.atMost("/spec/tiers", len(p.Tiers), maxTiers)
	names := validateTiers(r, p.Tiers)
	if p.Active == "" {
		return
	}
	if p.Mode != FailoverArmed {
		r.add(FieldError{Pointer: "/spec/active", Code: CodeInvalid, Message: "is for mode Armed", Hint: "set mode: Armed, or leave it out"})
	}
	if len(p.Tiers) == 0 {
		names = ImplicitTiers()
	}
	r.oneOf("/spec/active", p.Active, names...)
}

// validateTiers returns the tiers' names.
func validateTiers(r *report, tiers []FailoverTier) (names []string) {
	zones := map[string]string{}
	for i, t := range tiers {
		at := ptr("/spec/tiers", i)
		r.checked(at+"/name", t.Name, mesh.CheckLabel)
		if slices.Contains(names, t.Name) {
			r.add(FieldError{Pointer: at + "/name", Code: CodeDuplicate, Message: fmt.Sprintf("%q is used twice", clip(t.Name))})
		}
		names = append(names, t.Name)
		if len(t.Zones) == 0 {
			r.required(at + "/zones")
		}
		r.atMost(at+"/zones", len(t.Zones), maxTierZones)
		for j, z := range t.Zones {
			validateTierZones(r, ptr(at+"/zones", j), z)
			what := fmt.Sprintf("%s %s %s %t", z.Zone, z.Cloud, z.Region, z.Local)
			if by := zones[what]; by != "" {
				r.add(FieldError{Pointer: ptr(at+"/zones", j), Code: CodeDuplicate, Message: "is named before at " + by + ", and a zone belongs to the first tier that names it"})
				continue
			}
			zones[what] = ptr(at+"/zones", j)
		}
		if r.full() {
			break
		}
	}
	return names
}

func validateTierZones(r *report, at string, z TierZones) {
	ways := 0
	for _, given := range []bool{z.Zone != "", z.Cloud != "" || z.Region != "", z.Local} {
		if given {
			ways++
		}
	}
	switch {
	case ways == 0:
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "names no zone", Hint: "give zone, cloud and region, or local: true"})
	case ways > 1:
		r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: "names zones in more than one way", Hint: "make an item of each"})
	}
	if z.Zone != "" {
		r.checked(at+"/zone", z.Zone, mesh.CheckZoneName)
	}
	if z.Cloud != "" {
		r.checked(at+"/cloud", z.Cloud, mesh.CheckLabel)
	}
	if z.Region != "" {
		r.checked(at+"/region", z.Region, mesh.CheckLabel)
	}
	r.number(at+"/weight", z.Weight, 1, maxWeight)
}

// Failover is a FailoverPolicy with its decoded spec.
type Failover struct {
	Resource mesh.Resource
	Spec     *FailoverPolicy
}

// FailoverFor chooses the policy of a service: one that targets it by name, else one of its namespace, else one of
// SystemNamespace; among those a zone's own before global's, then the older, then by name. Of the others that
// would apply, losers has those that are as specific, and so lose to it everywhere.
func FailoverFor(policies []Failover, service ServiceRef) (won *Failover, losers []mesh.Key) {
	var list []Failover
	for _, p := range policies {
		if p.Spec != nil && targets(p.Spec.TargetRef, p.Resource.Namespace, service) {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		return nil, nil
	}
	slices.SortFunc(list, func(a, b Failover) int {
		return cmp.Or(
			cmp.Compare(b.specificity(), a.specificity()),
			first(a.Resource.Origin != mesh.OriginGlobal, b.Resource.Origin != mesh.OriginGlobal),
			cmp.Compare(a.Resource.Created, b.Resource.Created),
			a.Resource.Compare(b.Resource.Key),
		)
	})
	for _, p := range list[1:] {
		if p.specificity() == list[0].specificity() {
			losers = append(losers, p.Resource.Key)
		}
	}
	return &list[0], losers
}

// specificity is 2 for a service, 1 for a namespace, 0 for the mesh.
func (f Failover) specificity() int {
	switch {
	case f.Spec.TargetRef != nil:
		return 2
	case f.Resource.Namespace != SystemNamespace:
		return 1
	}
	return 0
}
