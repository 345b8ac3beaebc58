// Package placement decides which host carries which node and which volume of
// a reservation, over time. It is pure: plain structs in, a plan or an
// explanation out; no clock, no randomness, no I/O, and nothing of ours is
// imported.
//
//	hosts + bookings ──New──▶ Inventory ──Plan(Request)──▶ Plan
//	                                            └────────▶ *NoFit{Reasons}
package placement
