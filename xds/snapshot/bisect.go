package snapshot

import (
	"slices"
	"strings"
)

// probe is the search for the entries of a refused response that are at fault. Envoy often names none,
// and it may apply a part of what it refuses, so the response is sent again in parts until each part
// is acknowledged or is one entry.
type probe struct {
	todo   [][]*Entry // parts to be sent, the next one last
	trying []*Entry   // the part without an answer
	bad    []Verdict  // found; the type stands still until no generation wants them
}

// refused takes a NACK of a response.
func (s *Stream) refused(t Type, f sentFrame, text string) {
	st := &s.types[t]
	if len(f.frame.Entries) == 0 {
		// A removal that is refused has nothing to be split; sending it again would not end.
		if f.kind == push && st.probe == nil {
			st.acked = f.at
		}
		return
	}
	s.suspect(t, f.frame)
	for _, name := range f.frame.Removed {
		if f.at != nil && f.at.sets[t].find(name) == nil {
			st.gone = append(st.gone, goneName{name, f.at.num})
		}
	}
	if st.probe == nil {
		st.probe = new(probe)
	}
	p := st.probe
	if f.kind == trial {
		p.trying = nil
	}
	parts := s.usable(t, f.frame.Entries)
	s.replace(t, f.frame.Entries, parts)
	switch {
	case len(parts) == 0:
	case len(parts) < len(f.frame.Entries):
		p.todo = append(p.todo, parts) // without what is known to be bad
	case len(parts) == 1:
		if !parts[0].filler {
			p.bad = append(p.bad, Verdict{Entry: parts[0], Error: text})
		}
	default:
		p.todo = append(p.todo, split(parts, text)...)
	}
}

// split parts a refused set: what the error names from the rest, or in halves. The part more likely to
// be good is last, which is sent first.
func split(entries []*Entry, text string) [][]*Entry {
	var named, rest []*Entry
	for _, e := range entries {
		if strings.Contains(text, e.Name) {
			named = append(named, e)
		} else {
			rest = append(rest, e)
		}
	}
	if len(named) == 0 || len(rest) == 0 {
		half := len(entries) / 2
		named, rest = entries[half:], entries[:half]
	}
	return [][]*Entry{named, rest}
}

// usable drops what is in quarantine and what the client was sent a newer version of since.
func (s *Stream) usable(t Type, entries []*Entry) []*Entry {
	st := &s.types[t]
	return slices.DeleteFunc(slices.Clone(entries), func(e *Entry) bool {
		if e.filler && st.at.sets[t].find(e.Name) == nil {
			return false // nobody published any; somebody waits for it all the same
		}
		return s.gen.quarantined(e) || !st.at.sets[t].has(e) || (st.probe != nil && st.probe.found(e))
	})
}

// try sends the next part, or ends the search.
func (s *Stream) try(t Type) {
	st := &s.types[t]
	p := st.probe
	for p.trying == nil && len(p.todo) > 0 {
		all := p.todo[len(p.todo)-1]
		p.todo = p.todo[:len(p.todo)-1]
		part := s.usable(t, all)
		s.replace(t, all, part)
		if len(part) == 0 {
			continue
		}
		p.trying = part
		s.send(t, trial, looseFrame(t, part, nil), nil)
		if t == Cluster && s.types[Endpoint].subscribed {
			s.follow(s.gen, looseFrame(Endpoint, s.endpointsOf(part), nil))
		}
	}
	wanted := false
	for _, v := range p.bad {
		if s.gen.sets[t].has(v.Entry) {
			wanted = true
			if !slices.Contains(s.verdicts, v) {
				s.verdicts = append(s.verdicts, v) // once more, if it was published again meanwhile
			}
		}
	}
	if p.trying != nil || wanted {
		return
	}
	st.probe = nil
	for _, v := range p.bad {
		s.replace(t, []*Entry{v.Entry}, nil)
	}
}

func (p *probe) found(e *Entry) bool {
	return slices.ContainsFunc(p.bad, func(v Verdict) bool { return v.Entry == e })
}

// replace sees to the refused entries that are not sent again: whatever comes next under their names is
// sent, even if it is what `at` has. Assignments are answered for at once, with what the newest generation
// has instead or with "no endpoints": a cluster may wait for them, and would hold up all behind it.
func (s *Stream) replace(t Type, refused, again []*Entry) {
	st := &s.types[t]
	var instead []*Entry
	for _, e := range refused {
		if slices.Contains(again, e) {
			continue
		}
		if !e.filler {
			st.mark(e.Name)
		}
		switch now := s.gen.sets[t].find(e.Name); {
		case t != Endpoint || now == e:
		case now != nil:
			instead = append(instead, now)
		default:
			instead = append(instead, s.filler(e.Name))
		}
	}
	if len(instead) > 0 {
		s.send(t, answer, looseFrame(t, instead, nil), nil)
	}
}

// endpointsOf finds the newest assignments of clusters that may be gone from the newest generation.
func (s *Stream) endpointsOf(clusters []*Entry) []*Entry {
	eds := s.gen.endpointsOf(clusters)
	for _, e := range s.types[Cluster].at.endpointsOf(clusters) {
		if s.gen.sets[Endpoint].find(e.Name) == nil {
			eds = append(eds, e)
		}
	}
	return eds
}

func (s *Stream) suspect(t Type, f *Frame) {
	names := s.suspects[t]
	if names == nil {
		names = make(map[string]struct{}, len(f.Entries))
		s.suspects[t] = names
	}
	for _, e := range f.Entries {
		names[e.Name] = struct{}{}
	}
}

// cleared forgets the suspicion about what has been acknowledged.
func (s *Stream) cleared(t Type, f *Frame) {
	names := s.suspects[t]
	if names == nil {
		return
	}
	for _, e := range f.Entries {
		delete(names, e.Name)
	}
	for _, name := range f.Removed {
		delete(names, name)
	}
	if len(names) == 0 {
		delete(s.suspects, t)
	}
}
