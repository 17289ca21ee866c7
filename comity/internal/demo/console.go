package demo

// Console is where global's web console is, and the file with the token to sign in with.
func (d *Demo) Console() (url, tokenFile string) {
	return "http://" + addr(globalHost(d.net), portAPI) + "/", d.tokenFile("global")
}
