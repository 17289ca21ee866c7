package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/comity-mesh/comity/test/bench/datapath/internal/load"
	"github.com/comity-mesh/comity/test/bench/internal/rig"
)

// nginxConfig is of one end of a pair; %[1]s is its folder, the rest is said by startNginx.
const nginxConfig = `daemon off;
master_process off;
pid %[1]s.pid;
error_log stderr crit;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path %[1]s.body; proxy_temp_path %[1]s.proxy; fastcgi_temp_path %[1]s.f; uwsgi_temp_path %[1]s.u; scgi_temp_path %[1]s.s;
  upstream next { server 127.0.0.1:%[2]d; keepalive 128; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:%[3]d%[4]s;
    location / { proxy_pass %[5]s://next; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; %[6]s }
  }
}
`

// startNginx starts a pair with mTLS, HTTP/1.1 between them because nginx asks servers in nothing newer. It is nil where there is
// no nginx, with what to do about that.
func startNginx(ctx context.Context, dir string, app load.App, client, server keyFiles) (p *peer, missing string, err error) {
	program, err := exec.LookPath("nginx")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			return nil, "there is no nginx; `apt-get install nginx-light` brings it", nil
		}
	}
	in, err := freePort()
	if err != nil {
		return nil, "", err
	}
	between, err := freePort()
	if err != nil {
		return nil, "", err
	}
	p = &peer{name: "nginx"}
	for _, end := range []struct {
		name   string
		to, on int
		listen string
		scheme string
		more   string
	}{
		{"server", int(app.HTTP1), between, fmt.Sprintf(" ssl; ssl_protocols TLSv1.3; ssl_certificate %s; ssl_certificate_key %s; ssl_client_certificate %s; ssl_verify_client on",
			server.certificate, server.key, server.roots), "http", ""},
		// It knows servers by DNS name alone, and our certificates have none.
		{"client", between, in, "", "https", fmt.Sprintf("proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate %s; proxy_ssl_certificate_key %s;", client.certificate, client.key)},
	} {
		base := filepath.Join(dir, "nginx-"+end.name)
		if err := os.WriteFile(base+".conf", fmt.Appendf(nil, nginxConfig, base, end.to, end.on, end.listen, end.scheme, end.more), 0o600); err != nil {
			return nil, "", err
		}
		q, err := startProcess(program, "-c", base+".conf", "-e", base+".log")
		if err != nil {
			p.stop()
			return nil, "", err
		}
		p.procs = append(p.procs, q)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(in))
	if err := rig.Poll(ctx, "nginx answers", func() error { return getOK(ctx, address, "lean.example") }); err != nil {
		p.stop()
		for _, q := range p.procs {
			err = fmt.Errorf("%w\n%s", err, q.said.String())
		}
		return nil, "", err
	}
	p.ways = map[string]way{modes[0].name: {Order: modes[0].order(address, "lean.example"), hops: []int{p.procs[1].pid(), p.procs[0].pid()}}}
	return p, "", nil
}
