package fsm

import (
	"fmt"

	"vcn/api"
)

// TokenCreate adds a token.
type TokenCreate struct{ Token Token }

var _ = register[TokenCreate](TypeTokenCreate, "TokenCreate")

// Type is the command's number.
func (TokenCreate) Type() Type { return TypeTokenCreate }

func (c TokenCreate) apply(t *tx) error { return t.addToken(c.Token) }

func (t *tx) addToken(k Token) error {
	if !validID(k.ID) {
		return invalid("token id %q", k.ID)
	}
	if len(k.Hash) != 32 {
		return invalid("token hash of %d bytes: want a SHA-256", len(k.Hash))
	}
	switch k.Kind {
	case api.TokenOperator, api.TokenJoin:
	case api.TokenProject, api.TokenFeed:
		if k.Project == "" {
			return invalid("a project token without a project")
		}
	default:
		return invalid("token kind %q", k.Kind)
	}
	if !k.Expires.After(t.now) || k.Expires.After(t.now.Add(HorizonMax)) {
		return invalid("token expiry %s: want a time ahead", k.Expires)
	}
	if _, dup := first[Token](t.reader, tabTokens, "id", key(k.ID)); dup {
		return fmt.Errorf("token %q: %w", k.ID, ErrExists)
	}
	k.Created, k.Expires = t.now, k.Expires.UTC()
	t.put(tabTokens, &k)
	return nil
}
