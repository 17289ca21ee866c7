package envoy

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/translate"
)

// agentSocket stands where the agent ends TLS: it tells each peer the server name that it came with, and
// echoes lines.
func agentSocket(t *testing.T, cert tls.Certificate) uint16 {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				s, ok := c.(*tls.Conn)
				if !ok || s.Handshake() != nil {
					return
				}
				fmt.Fprintln(c, s.ConnectionState().ServerName)
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintln(c, lines.Text())
				}
			}()
		}
	}()
	return portOf(l.Addr())
}

// TestPeerChain: ingresses of believed zones reach the agent, each zone by a chain of its own, and nobody
// reaches it by another name.
func TestPeerChain(t *testing.T) {
	m := newTwoZones(t)
	cert := m.two.issue(t, "/fed/zone-ingress/gate")
	socket := &ir.HostPort{Address: "127.0.0.1", Port: agentSocket(t, cert)}
	gate := func(in topology.Input) []envoy.Resource {
		topo, _ := topology.Build(in)
		p := translate.Proxy(topo, proxyNamed(t, topo, "gate"))
		// The bootstrap's, in a test of the chain alone.
		p.Clusters = append(slices.Clone(p.Clusters), ir.Cluster{Name: translate.PeersCluster, Protocol: ir.Bytes, ConnectTimeout: 250, Fixed: socket})
		out, err := envoy.Build(p)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	m.gate.update(t, gate(m.server), "cluster_manager.cds.update_success")
	open := func(name string) (*tls.Conn, *bufio.Reader, error) {
		c, err := handshake(t, local(m.gateTLS), name, nil)
		if err != nil {
			return nil, nil, err
		}
		r := bufio.NewReader(c)
		line, err := r.ReadString('\n')
		if err == nil && line != name+"\n" {
			err = fmt.Errorf("the agent was asked for %q", line)
		}
		return c, r, err
	}
	one, fromOne, err := open(mesh.PeerSNI("one", "two"))
	if err != nil {
		t.Fatal(err)
	}
	_, fromThree, err := open(mesh.PeerSNI("three", "two"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		mesh.PeerSNI("four", "two"), mesh.PeerSNI("two", "two"), mesh.PeerSNI("one", "three"), "peer.two.mesh", "x.one.peer.two.mesh", "",
	} {
		if _, _, err := open(name); err == nil {
			t.Errorf("%q reaches the agent", name)
		}
	}

	// Zone three is believed no more: its connection ends, and zone one's does not.
	without := m.server
	without.Remotes = m.server.Remotes[:1]
	m.gate.update(t, gate(without), "listener_manager.lds.update_success")
	if _, err := fromThree.ReadString('\n'); err == nil {
		t.Error("zone three's connection goes on")
	} else if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		t.Error("zone three's connection was not closed")
	}
	if _, _, err := open(mesh.PeerSNI("three", "two")); err == nil {
		t.Error("zone three is still let in")
	}
	fmt.Fprintln(one, "still here")
	if s, err := fromOne.ReadString('\n'); err != nil || s != "still here\n" {
		t.Errorf("zone one's connection was cut: %q, %v", s, err)
	}
}
