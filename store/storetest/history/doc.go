// Package history runs random schedules against an engine of store.Store, in processes that are killed, and checks
// from what was recorded that no acknowledged write was lost, none was repeated, and every watch saw the log as
// it is: dense, in order, each commit once.
//
// A schedule is made from a seed. Its calls are made by children of the test, which write a line before each call,
// after each answer, and for each commit that they watch; all children write into one pipe, so the lines are in an
// order in which things can have happened. A child that was killed is started again with what it had not finished: the
// same calls under the same idempotency keys.
package history
