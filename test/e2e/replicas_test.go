package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/pgbin"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// postgres starts a server, and returns the settings of a global that keeps its store there.
func postgres(t testing.TB) map[string]any {
	t.Helper()
	server, err := pgbin.Run(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Remove(); err != nil {
			t.Error(err)
		}
	})
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte(server.Password()), 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]any{"database": map[string]any{"url": server.URL("postgres"), "passwordFile": password, "migrate": true}}
}

// newGlobal configures a global at an address for zones; settings come on top of the usual ones.
func newGlobal(t testing.TB, name, federation string, settings map[string]any) *controlPlane {
	t.Helper()
	config := map[string]any{"trustDomain": "global.e2e.example", "listen": map[string]any{"federation": federation}}
	maps.Copy(config, settings)
	return newControlPlane(t, nil, name, "global-cp", config)
}

// TestAnswerLost: global is killed with -9 after it has committed a write and before anybody has its answer. Asked again
// with the same Idempotency-Key it tells the first result, and nothing is written twice.
func TestAnswerLost(t *testing.T) {
	for name, settings := range map[string]func(testing.TB) map[string]any{
		"SQLite":   func(testing.TB) map[string]any { return nil },
		"Postgres": postgres,
	} {
		t.Run(name, func(t *testing.T) {
			global := newGlobal(t, "global", (*host)(nil).somewhere(t), settings(t))
			global.run()
			kind, _ := policy.Lookup(string(mesh.KindZone))
			docs := []byte("apiVersion: mesh.comity.dev/v1alpha1\nkind: Zone\nmetadata: {name: east}\nspec: {namespaces: [shop]}\n")
			options := client.ApplyOptions{IdempotencyKey: "lost-answer"}

			token, err := os.ReadFile(filepath.Join(global.dir, "admin.token"))
			if err != nil {
				t.Fatal(err)
			}
			deaf, err := client.New(client.Config{Server: "http://" + keepsAnswers(t, global.api), Token: strings.TrimSpace(string(token))})
			if err != nil {
				t.Fatal(err)
			}
			answered := make(chan error, 1)
			go func() {
				_, err := deaf.Apply(ctxOf(t), docs, options)
				answered <- err
			}()
			var committed client.Object
			await(t, "the write is committed", func() (err error) {
				committed, err = global.Get(ctxOf(t), kind, "", "east", "")
				return err
			})
			select {
			case err := <-answered:
				t.Fatalf("it was answered before the kill: %v", err)
			default:
			}
			global.kill()
			if err := <-answered; err == nil {
				t.Fatal("the writer has its answer, so this test proves nothing")
			}
			global.run()
			again, err := global.Apply(ctxOf(t), docs, options)
			if err != nil {
				t.Fatal(err)
			}
			if !again.Replayed || strconv.FormatUint(uint64(again.Revision), 10) != committed.Metadata.ResourceVersion || again.Items[0].Outcome != "created" {
				t.Errorf("asked again: %+v, and revision %s was committed", again, committed.Metadata.ResourceVersion)
			}
			if all, err := global.List(ctxOf(t), kind, client.ListOptions{}); err != nil || all.Revision != again.Revision {
				t.Errorf("the head is %d, %v; it was %d", all.Revision, err, again.Revision)
			}
			other, err := global.Apply(ctxOf(t), []byte(strings.Replace(string(docs), "east", "west", 1)), client.ApplyOptions{IdempotencyKey: "another"})
			if err != nil || other.Replayed || other.Revision != again.Revision+1 {
				t.Errorf("the next write: %+v, %v", other, err)
			}
		})
	}
}

// keepsAnswers is an address that passes on what is sent to another one, and keeps what that answers to itself. Its
// connections end with those behind it.
func keepsAnswers(t testing.TB, to string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return // the test has ended
			}
			behind, err := net.Dial("tcp", to)
			if err != nil {
				_ = from.Close()
				continue
			}
			wg.Go(func() { _, _ = io.Copy(behind, from); _ = behind.Close() })     // until either side ends
			wg.Go(func() { _, _ = io.Copy(io.Discard, behind); _ = from.Close() }) // until global dies
		}
	})
	return l.Addr().String()
}

// holds reports whether a global has the zone's session, by its metrics.
func (c *controlPlane) holds(zone string) bool {
	c.t.Helper()
	r, err := http.Get("http://" + c.api + "/metrics")
	if err != nil {
		return false
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return err == nil && bytes.Contains(text, []byte(`comity_federation_session{zone="`+zone+`"} 1`))
}

// TestReplicaKilled: two replicas on one Postgres, and a zone that knows both. The one that holds its session is killed with
// -9: the zone goes to the other by itself, and what is written there reaches it. Then the other way around.
func TestReplicaKilled(t *testing.T) {
	addresses := []string{(*host)(nil).somewhere(t), (*host)(nil).somewhere(t)}
	settings := postgres(t)
	settings["advertise"] = addresses
	first, second := newGlobal(t, "global-1", addresses[0], settings), newGlobal(t, "global-2", addresses[1], settings)
	first.run()
	for _, file := range []string{"admin.token", "data/kek", "data/authority"} {
		cmd := exec.Command("cp", "-a", "--parents", file, second.dir)
		cmd.Dir = first.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	second.run()
	east := startZone(t, "east")
	east.joins(first, "shop")
	global := map[bool]*controlPlane{true: first, false: second}
	await(t, "a replica holds the zone's session", func() error {
		if !first.holds("east") && !second.holds("east") {
			return errors.New("none does")
		}
		return nil
	})
	kind, _ := policy.Lookup(string(mesh.KindAuthorizationPolicy))
	for round := range 2 {
		dies, stays := global[first.holds("east")], global[!first.holds("east")]
		dies.kill()
		killed := time.Now()
		name := fmt.Sprintf("after-%d", round)
		stays.apply(strings.Replace(allowAll, "web-calls-pay", name, 1))
		written := time.Since(killed)
		await(t, "the zone is connected at the other replica", func() error {
			if !stays.holds("east") {
				return errors.New("it is not")
			}
			return nil
		})
		connected := time.Since(killed)
		await(t, "what was written there reaches the zone", func() error {
			_, err := east.Get(ctxOf(t), kind, "shop", name, "")
			return err
		})
		t.Logf("%s killed: written at %s after %s, the zone is connected there after %s and has it after %s", dies.name, stays.name,
			written.Round(time.Millisecond), connected.Round(time.Millisecond), time.Since(killed).Round(time.Millisecond))
		dies.run()
	}
}
