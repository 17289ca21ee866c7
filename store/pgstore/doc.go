// Package pgstore is the engine of store.Store on Postgres 14 or newer, for global control planes with several
// replicas. It is the only package that knows Postgres.
//
// # Writing
//
// Every replica has two goroutines that write, each on a connection of its own: one for applies, one for records. Each
// takes whatever calls are waiting and commits them as one transaction in two round trips: one locks the row of the
// counter (or those of the buckets) and reads what the calls need, one writes what engine.Decide made of it. Every
// apply still has its own revision; a conflict or a dry run writes nothing, so it can't disturb its neighbours. The
// counter's row is locked before anything is read, so replicas write one after another, revisions are dense,
// and commit order is revision order. Commits always wait for the disk: store.Recoverable means that its
// writer says things again after its own restart, and here the database can die alone.
//
// A call that ends with store.ErrUnavailable because the connection broke under its commit may have been committed: who
// repeats it with the same idempotency key gets the one result.
//
// # Reading and watching
//
// Watchers of the replica that commits are woken without Postgres. The others are woken by NOTIFY, which carries a
// number only: the tables are the truth. Each replica also looks by itself every few seconds, and after each lost
// connection, so that a notification that is missed costs time and never a change. Watchers outlive the loss of the
// database: they go on where they were.
//
// # Restored and failed-over databases
//
// The counter's row holds where the database was when its incarnation began: cluster, timeline, database and table.
// A standby that was promoted, a dump or a base backup that was restored, a database that was copied differ in one of
// them. Every connection compares before it is used, and begins a new incarnation if it has to, so that whoever
// holds a cursor is told. So it does if the database stands before a revision that this replica has seen. What can't be
// seen is a database put back, in place and byte for byte, while no replica ran: `global-cp migrate
// --new-incarnation` says so, and zones that were ahead learn it from store.ErrFuture.
package pgstore
