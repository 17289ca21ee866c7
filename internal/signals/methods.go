package signals

// MethodRequests are the requests that a server answered, by method. Labels: Pair, Method, CodeClass.
const MethodRequests = "comity_method_requests_total"

// Method is one of Methods, or Other.
const Method = "method"

// Methods are those that are told apart: HTTP's own (RFC 9110, RFC 5789).
func Methods() []string {
	return []string{"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
}
