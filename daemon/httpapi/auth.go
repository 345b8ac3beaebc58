package httpapi

import (
	"context"
	"crypto/subtle"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"vcn/api"
	"vcn/fsm"
)

// metaAccess is the key under which an operation says who may call it.
const metaAccess = "access"

// metaToken is the key under which an operation that looks at tokens by itself
// says, for people, which it takes.
const metaToken = "token"

// access lists the kinds of tokens that may call an operation.
type access []api.TokenKind

var (
	forOperator = access{api.TokenOperator}
	forOwner    = access{api.TokenOperator, api.TokenProject}
	forJoin     = access{api.TokenJoin}
)

func (a access) describe() (string, bool) {
	var kinds []string
	for _, k := range a {
		kinds = append(kinds, string(k))
	}
	return strings.Join(kinds, " or "), len(a) > 0
}

// principal is who asks.
type principal struct {
	TokenID string
	Kind    api.TokenKind
	Project string // empty for an operator
}

// sees tells whether the principal may know of a project's things.
func (p principal) sees(project string) bool {
	return p.Kind == api.TokenOperator || p.Kind == api.TokenProject && p.Project == project
}

type principalKey struct{}

func principalOf(ctx context.Context) principal {
	p, _ := ctx.Value(principalKey{}).(principal)
	return p
}

// authenticate finds out who asks. now is this host's time or the state's
// clock, whichever is later.
func authenticate(v *fsm.View, header string, wall time.Time) (principal, *api.Problem) {
	deny := func(detail, next string) (principal, *api.Problem) {
		return principal{}, newProblem(http.StatusUnauthorized, api.CodeUnauthorized, detail, next)
	}
	const how = "send \"Authorization: Bearer TOKEN\"; an operator makes tokens with vcnctl token create"
	scheme, text, ok := strings.Cut(header, " ")
	if header == "" || !ok || !strings.EqualFold(scheme, "Bearer") {
		return deny("this needs a token", how)
	}
	tok, err := api.ParseToken(text)
	if err != nil {
		return deny("the text sent is not a vcn token", how)
	}
	meta, ok := v.Meta()
	if !ok {
		return principal{}, newProblem(http.StatusServiceUnavailable, api.CodeForming, "this cluster of hosts is not set up yet", "finish vcnd init on the first host")
	}
	if tok.ClusterID != meta.ClusterID {
		return principal{}, newProblem(http.StatusMisdirectedRequest, api.CodeWrongCluster,
			fmt.Sprintf("the token is of cluster %.64s, this host is of cluster %s", tok.ClusterID, meta.ClusterID),
			"use the address of that cluster, or a token of this one (vcnctl context list)")
	}
	row, ok := v.TokenByID(tok.ID)
	// The hash is compared even when there is no such token, so that the time
	// an answer takes does not tell which ids exist.
	want := row.Hash
	if !ok {
		want = make([]byte, len(api.HashToken("")))
	}
	same := subtle.ConstantTimeCompare(want, api.HashToken(text)) == 1
	if !ok || !same || row.Kind != tok.Kind {
		return deny("the token is unknown here; it may have been revoked", "ask an operator for a new one (vcnctl token create)")
	}
	now := v.Clock()
	if wall.After(now) {
		now = wall
	}
	if !now.Before(row.Expires) {
		return deny("the token expired at "+row.Expires.UTC().Format(time.RFC3339), "ask an operator for a new one (vcnctl token create)")
	}
	return principal{TokenID: row.ID, Kind: row.Kind, Project: row.Project}, nil
}

// guard is the middleware of every operation that needs a token.
func (s *Server) guard(ctx huma.Context, next func(huma.Context)) {
	op := ctx.Operation()
	allowed, _ := op.Metadata[metaAccess].(access)
	if len(allowed) == 0 {
		next(ctx)
		return
	}
	who, p := authenticate(s.cfg.State.View(), ctx.Header("Authorization"), time.Now())
	if p == nil && !slices.Contains(allowed, who.Kind) {
		kinds, _ := allowed.describe()
		p = newProblem(http.StatusForbidden, api.CodeForbidden,
			fmt.Sprintf("a %s token may not do this", who.Kind), "use a token of kind "+kinds)
	}
	if p != nil {
		s.refuse(ctx, p)
		return
	}
	next(huma.WithValue(ctx, principalKey{}, who))
}

// refuse answers with a problem from a middleware.
func (s *Server) refuse(ctx huma.Context, p *api.Problem) {
	for k, vs := range problemHeaders(p) {
		for _, v := range vs {
			ctx.SetHeader(k, v)
		}
	}
	ctx.SetHeader("Content-Type", problemType)
	ctx.SetStatus(p.Status)
	s.api.Marshal(ctx.BodyWriter(), "application/json", p)
}
