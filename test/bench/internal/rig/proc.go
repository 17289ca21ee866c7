package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage of a group of processes, in bytes and CPU time since their start.
type Usage struct {
	Count    int
	RSS, PSS float64
	CPU      time.Duration
}

// Sum adds all groups up.
func Sum(all map[string]Usage) Usage {
	var t Usage
	for _, u := range all {
		t = t.plus(u)
	}
	return t
}

func (u Usage) plus(o Usage) Usage {
	return Usage{Count: u.Count + o.Count, RSS: u.RSS + o.RSS, PSS: u.PSS + o.PSS, CPU: u.CPU + o.CPU}
}

// Tree adds up the process and all its descendants, by program.
func Tree(root int) map[string]Usage {
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
	out := map[string]Usage{}
	for todo := []int{root}; len(todo) > 0; {
		pid := todo[0]
		todo = append(todo[1:], children[pid]...)
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			continue
		}
		group := strings.TrimSpace(string(name))
		out[group] = out[group].plus(Of(pid))
	}
	return out
}

// Of is what one process uses; zero if it is not there.
func Of(pid int) Usage {
	f := stat(pid)
	if len(f) < 22 {
		return Usage{}
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return Usage{
		Count: 1, RSS: kilobytes(pid, "Rss:"), PSS: kilobytes(pid, "Pss:"),
		CPU: time.Duration(user+system) * (time.Second / 100), // USER_HZ is 100 on Linux
	}
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

// CPU that a process has used, all threads together; the kernel counts it in nanoseconds. Threads that have ended
// are not counted.
func CPU(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d is not there", pid)
	}
	var sum time.Duration
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has just ended
		}
		ran, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", f, err)
		}
		sum += time.Duration(n)
	}
	return sum, nil
}
