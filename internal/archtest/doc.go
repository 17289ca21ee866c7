// Package archtest holds the rules of the house as data (table.go) and tests that read the code against
// them: who may import whom, which library has which one door, and the few habits that every package
// keeps. A failure says the rule's reason and what to do.
package archtest
