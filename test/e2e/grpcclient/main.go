// Grpcclient is an application of the tests: it dials its argument by grpc-go's xDS, and makes a call for each line of
// its standard input: List, or Check of what the line says. It answers with a line of JSON each.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	xdscreds "google.golang.org/grpc/credentials/xds"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds"
)

// answer is what came of a call.
type answer struct {
	Server  string `json:"server"` // who answered
	Caller  string `json:"caller"` // as it was told
	Code    string `json:"code"`
	Message string `json:"message"`
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(target string) error {
	creds, err := xdscreds.NewClientCredentials(xdscreds.ClientOptions{FallbackCreds: credentials.NewTLS(nil)})
	if err != nil {
		return err
	}
	cc, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		return err
	}
	defer cc.Close()
	out := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := out.Encode(call(cc, lines.Text())); err != nil {
			return err
		}
	}
	return nil
}

func call(cc *grpc.ClientConn, method string) answer {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var head metadata.MD
	var err error
	if method == "List" {
		_, err = healthpb.NewHealthClient(cc).List(ctx, &healthpb.HealthListRequest{}, grpc.Header(&head))
	} else {
		_, err = healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{Service: strings.TrimPrefix(method, "Check")}, grpc.Header(&head))
	}
	a := answer{Code: status.Code(err).String(), Message: status.Convert(err).Message()}
	if v := head.Get("server-name"); len(v) > 0 {
		a.Server = v[0]
	}
	if v := head.Get("caller"); len(v) > 0 {
		a.Caller = v[0]
	}
	return a
}
