package fsm

import "fmt"

// TokenRevoke removes one. Unknown ids are ErrNotFound.
type TokenRevoke struct{ ID string }

var _ = register[TokenRevoke](TypeTokenRevoke, "TokenRevoke")

// Type is the command's number.
func (TokenRevoke) Type() Type { return TypeTokenRevoke }

func (c TokenRevoke) apply(t *tx) error {
	k, ok := first[Token](t.reader, tabTokens, "id", key(c.ID))
	if !ok {
		return fmt.Errorf("token %q: %w", c.ID, ErrNotFound)
	}
	t.del(tabTokens, k)
	t.event("", "", "token.revoked", "%s token %s is revoked", k.Kind, k.ID)
	return nil
}
