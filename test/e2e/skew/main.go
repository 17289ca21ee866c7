//go:build linux && amd64

// Skew runs a program whose wall clock is off: skew OFFSET PROGRAM [ARGUMENTS...].
//
// A namespace can't set the wall clock, and a library that is preloaded is not heard by Go programs. Both Go and libc
// read the clock by code that the kernel maps into every process (the vDSO). Skew starts the program stopped, replaces
// those functions by ones that ask the kernel and add the offset to what it says of the wall clock, and lets it run: the
// program is the one that ships, and all its clocks agree. Monotonic time is as it is. Processes that it starts are not
// affected.
package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "skew:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(args []string) (code int, err error) {
	if len(args) < 2 {
		return 0, errors.New("usage: skew OFFSET PROGRAM [ARGUMENTS...]")
	}
	offset, err := time.ParseDuration(args[0])
	if err != nil {
		return 0, err
	}
	// The thread that starts a process is the one that traces it, and at whose end the process is to end, too.
	runtime.LockOSThread()
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	pid := cmd.Process.Pid
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		return 0, fmt.Errorf("wait for the program's start: %w", err)
	}
	if !status.Stopped() {
		return 0, fmt.Errorf("the program did not stop at its start: status %#x", uint32(status))
	}
	if err := patch(pid, int32(offset/time.Second)); err != nil {
		return 0, errors.Join(err, cmd.Process.Kill())
	}
	if err := syscall.PtraceDetach(pid); err != nil {
		return 0, errors.Join(err, cmd.Process.Kill())
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may have ended
		}
	}()
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		return 0, err
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// patch replaces the clock functions of a stopped process.
func patch(pid int, seconds int32) error {
	start, end, err := vdso(pid)
	if err != nil {
		return err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	image := make([]byte, end-start)
	if _, err := mem.ReadAt(image, start); err != nil {
		return fmt.Errorf("read the vDSO: %w", err)
	}
	// The new functions go where the last page is empty.
	at := int64(len(bytes.TrimRight(image, "\x00"))+15) &^ 15
	functions := replacements(seconds)
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("read the vDSO: %w", err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return fmt.Errorf("read the vDSO: %w", err)
	}
	found := 0
	for _, s := range symbols {
		code, ok := functions[s.Name]
		if !ok {
			continue
		}
		found++
		if at+int64(len(code)) > int64(len(image)) {
			return errors.New("the vDSO has no room")
		}
		if _, err := mem.WriteAt(code, start+at); err != nil {
			return fmt.Errorf("write to the vDSO: %w", err)
		}
		entry := int64(s.Value) //nolint:gosec // an offset in two pages
		jump := append([]byte{0xe9}, le(int32(at-(entry+5)))...)
		if _, err := mem.WriteAt(jump, start+entry); err != nil {
			return fmt.Errorf("write to the vDSO: %w", err)
		}
		at = (at + int64(len(code)) + 15) &^ 15
	}
	if found != len(functions) {
		return fmt.Errorf("the vDSO has %d of %d clock functions", found, len(functions))
	}
	return nil
}

// vdso is where the kernel has mapped it.
func vdso(pid int) (start, end int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			_, err := fmt.Sscanf(line, "%x-%x", &start, &end)
			return start, end, err
		}
	}
	return 0, 0, errors.New("the process has no vDSO")
}

func le(v int32) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(v)) } //nolint:gosec // the bits

// replacements are the functions in machine code of x86-64. A system call keeps their arguments, in rdi and rsi.
func replacements(seconds int32) map[string][]byte {
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	const ret = 0xc3
	call := func(number int32) []byte { return cat([]byte{0xb8}, le(number), []byte{0x0f, 0x05}) } // mov eax, number; syscall
	return map[string][]byte{
		"__vdso_clock_gettime": cat(call(syscall.SYS_CLOCK_GETTIME), []byte{
			0x85, 0xff, // test edi, edi: CLOCK_REALTIME
			0x74, 0x05, // je add
			0x83, 0xff, 0x05, // cmp edi, 5: CLOCK_REALTIME_COARSE
			0x75, 0x07, // jne ret
			0x48, 0x81, 0x06, // add: add qword [rsi], seconds
		}, le(seconds), []byte{ret}),
		"__vdso_gettimeofday": cat(call(syscall.SYS_GETTIMEOFDAY), []byte{
			0x48, 0x85, 0xff, // test rdi, rdi: may be nil
			0x74, 0x07, // je ret
			0x48, 0x81, 0x07, // add qword [rdi], seconds
		}, le(seconds), []byte{ret}),
		"__vdso_time": cat(call(syscall.SYS_TIME), []byte{0x48, 0x05}, le(seconds), []byte{ // add rax, seconds
			0x48, 0x85, 0xff, // test rdi, rdi: may be nil
			0x74, 0x03, // je ret
			0x48, 0x89, 0x07, // mov [rdi], rax
			ret,
		}),
	}
}
