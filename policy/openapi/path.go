package openapi

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// anything is a segment of a path that a parameter stands for. The application says what values are right, not the mesh.
const anything = "[^/]+"

// path is a path template.
type path struct {
	plain    string    // as it is, if it has no parameters
	segments []segment // of one that has
	padding  string
}

// segment is one element of a path as a regular expression.
type segment struct {
	pattern string
	// fixed is how much of it is said: 2 all, 1 some, 0 nothing.
	fixed int
}

var parameter = regexp.MustCompile(`\{[^{}/]*\}`)

func parsePath(template string) *path {
	if !parameter.MatchString(template) {
		return &path{plain: template}
	}
	p := &path{}
	for s := range strings.SplitSeq(strings.TrimPrefix(template, "/"), "/") {
		var pattern strings.Builder
		end := 0
		for _, at := range parameter.FindAllStringIndex(s, -1) {
			pattern.WriteString(regexp.QuoteMeta(s[end:at[0]]) + anything)
			end = at[1]
		}
		pattern.WriteString(regexp.QuoteMeta(s[end:]))
		one := segment{pattern.String(), 1}
		switch {
		case end == 0:
			one.fixed = 2
		case one.pattern == anything:
			one.fixed = 0
		}
		p.segments = append(p.segments, one)
	}
	return p
}

// match is how a route says it.
func (p *path) match() (gatewayv1.PathMatchType, string) {
	if p.segments == nil {
		return gatewayv1.PathMatchExact, p.plain
	}
	return gatewayv1.PathMatchRegularExpression, p.pattern()
}

func (p *path) pattern() string {
	var b strings.Builder
	for _, s := range p.segments {
		b.WriteString("/" + s.pattern)
	}
	return b.String() + p.padding
}

// order makes sure that of two paths with parameters the one that says more comes first. Among regular expressions the longer comes
// first, so one that is too short gets empty groups, which match what is there anyway.
func order(paths []*path) {
	paths = slices.DeleteFunc(slices.Clone(paths), func(p *path) bool { return p.segments == nil })
	slices.SortStableFunc(paths, func(a, b *path) int { return cmp.Compare(a.fixed(), b.fixed()) })
	for i, p := range paths {
		for _, wider := range paths[:i] {
			for p.within(wider) && len(p.pattern()) <= len(wider.pattern()) {
				p.padding += "(?:)"
			}
		}
	}
}

func (p *path) fixed() int {
	n := 0
	for _, s := range p.segments {
		n += s.fixed
	}
	return n
}

// within reports whether a path says more than another one, and nothing else.
func (p *path) within(wider *path) bool {
	if len(p.segments) != len(wider.segments) {
		return false
	}
	more := false
	for i, s := range p.segments {
		o := wider.segments[i]
		if s.fixed < o.fixed || s.fixed == o.fixed && s.pattern != o.pattern {
			return false
		}
		more = more || s.fixed > o.fixed
	}
	return more
}
