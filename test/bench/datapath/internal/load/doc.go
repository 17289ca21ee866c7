// Package load is both ends of a benchmark's requests: a generator and the application that answers it. They run in
// processes of their own with one thread each, and do as little as a request needs, the same for whatever is between them.
package load
