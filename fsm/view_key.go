package fsm

// KeyOf returns what an idempotency key has made: the reservation's id and the
// hash of the request. False for a key never used, or forgotten (KeyLife).
func (v *View) KeyOf(project, idempotencyKey string) (reservation string, hash []byte, ok bool) {
	row, ok := first[keyRow](v.reader, tabKeys, "id", key(project, idempotencyKey))
	if !ok || !row.Expires.After(v.st.Clock) {
		return "", nil, false
	}
	return row.Reservation, row.Hash, true
}
