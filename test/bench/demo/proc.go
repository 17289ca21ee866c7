package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage of a group of processes, in bytes and CPU time since their start.
type usage struct {
	count    int
	rss, pss float64
	cpu      time.Duration
}

func sum(all map[string]usage) usage {
	var t usage
	for _, u := range all {
		t.count += u.count
		t.rss += u.rss
		t.pss += u.pss
		t.cpu += u.cpu
	}
	return t
}

// usageOf adds up the process and all its descendants, by program.
func usageOf(root int) map[string]usage {
	children := map[int][]int{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil {
			continue
		}
		if f := stat(pid); len(f) > 1 {
			if ppid, err := strconv.Atoi(f[1]); err == nil {
				children[ppid] = append(children[ppid], pid)
			}
		}
	}
	out := map[string]usage{}
	for todo := []int{root}; len(todo) > 0; {
		pid := todo[0]
		todo = append(todo[1:], children[pid]...)
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		f := stat(pid)
		if err != nil || len(f) < 22 {
			continue
		}
		group := strings.TrimSpace(string(name))
		u := out[group]
		u.count++
		u.rss += kilobytes(pid, "Rss:")
		u.pss += kilobytes(pid, "Pss:")
		user, _ := strconv.ParseInt(f[11], 10, 64)
		system, _ := strconv.ParseInt(f[12], 10, 64)
		u.cpu += time.Duration(user+system) * (time.Second / 100) // USER_HZ is 100 on Linux
		out[group] = u
	}
	return out
}

// stat returns the fields of /proc/PID/stat after the command, the state being the first.
func stat(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
}

func kilobytes(pid int, field string) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, field); ok {
			n, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return n * 1024
		}
	}
	return 0
}
