// Package api is the REST API over a store: one set of handlers for global and for a zone. Everything
// lies under /api/v1, needs a bearer token, speaks JSON (requests may be YAML) and answers errors as
// application/problem+json (RFC 9457). The OpenAPI 3.1 document is at /openapi.json. The wire forms
// are the types of package client.
//
//	GET    /api/v1/{plural}                              list; text/event-stream: watch
//	GET    /api/v1/namespaces/{namespace}/{plural}       the same within a namespace
//	GET    .../{plural}/{name}                           one resource with its status
//	POST   .../{plural}                                  create
//	PUT    .../{plural}/{name}                           replace, with If-Match; create, with If-None-Match: *
//	DELETE .../{plural}/{name}                           delete, with If-Match if wanted
//	GET    .../{plural}/{name}/history                   who changed it, when and why
//	POST   /api/v1/_apply                                many documents as one revision
//	GET    /api/v1/_status?revision=N                    how far a revision has come, as a stream
//	GET    /api/v1/proxies, failover, whoami, kinds, tokens
//	GET    /api/v1/overview                              what a person looks at first
//	GET    /api/v1/overview/stream                       the same as a stream of changes
//	POST   /api/v1/session                               keep the token in a cookie, with which a browser may read
//
// A store's own resources can be written; copies of other origins can be read.
package api
