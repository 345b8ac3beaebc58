package httpapi

import (
	"bytes"
	"context"
	"net/http"
	"slices"

	"vcn/api"
)

// remoteKey is the context key of the first asker's address.
type remoteKey struct{}

func remoteOf(ctx context.Context) string {
	r, _ := ctx.Value(remoteKey{}).(string)
	return r
}

type bodyIn struct{ RawBody []byte }

func (s *Server) registerOperator() {
	add(s, operation("listHosts", http.MethodGet, api.PathHosts, "The hosts there are, with what is free on each now", "", 200, forOperator),
		func(context.Context, *nothing) (*listOf[api.Host], error) {
			v := s.cfg.State.View()
			return listAt(v.Index(), s.newShower(v).hosts(s.cfg.Cluster.Members())), nil
		})
	addBody[api.ImageRequest](s, operation("wantImages", http.MethodPost, api.PathImages, "Have images built before they are needed", "", 202, forOperator), s.wantImages)
	add(s, operation("listTokens", http.MethodGet, api.PathTokens, "The tokens there are, without their secrets", "", 200, forOperator), s.listTokens)
	addBody[api.TokenRequest](s, operation("createToken", http.MethodPost, api.PathTokens, "Make a token", "The secret is in this answer and cannot be had again.", 201, forOperator), s.createToken)
	add(s, operation("revokeToken", http.MethodDelete, api.PathTokens+"/{id}", "Revoke a token", "", 204, forOperator, http.StatusNotFound), s.revokeToken)
	addBody[api.JoinRequest](s, operation("join", http.MethodPost, api.PathJoin, "Make a host a member",
		"vcnd join calls this with a join token.", 200, forJoin), s.join)
}

func (s *Server) wantImages(ctx context.Context, in *bodyIn) (*listOf[api.Image], error) {
	var req api.ImageRequest
	if err := api.ReadStrict(bytes.NewReader(in.RawBody), BodyBytesMax, &req); err != nil {
		return nil, err
	}
	recipes, err := s.cfg.Control.WantImages(ctx, req)
	if err != nil {
		return nil, err
	}
	v := s.cfg.State.View()
	images := slices.DeleteFunc(s.newShower(v).images(), func(i api.Image) bool { return !slices.Contains(recipes, i.Recipe) })
	return listAt(v.Index(), images), nil
}

func (s *Server) listTokens(context.Context, *nothing) (*listOf[api.Token], error) {
	v := s.cfg.State.View()
	var out []api.Token
	for _, t := range v.Tokens() {
		out = append(out, showToken(t))
	}
	return listAt(v.Index(), out), nil
}

func (s *Server) createToken(ctx context.Context, in *bodyIn) (*oneOf[api.Token], error) {
	var req api.TokenRequest
	if err := api.ReadStrict(bytes.NewReader(in.RawBody), BodyBytesMax, &req); err != nil {
		return nil, err
	}
	t, err := s.cfg.Control.CreateToken(ctx, req, principalOf(ctx).TokenID)
	if err != nil {
		return nil, err
	}
	return &oneOf[api.Token]{at(s.cfg.State.View().Index()), t}, nil
}

type tokenIn struct {
	ID string `path:"id" maxLength:"100"`
}

func (s *Server) revokeToken(ctx context.Context, in *tokenIn) (*struct{}, error) {
	return nil, s.cfg.Control.RevokeToken(ctx, in.ID)
}

func (s *Server) join(ctx context.Context, in *bodyIn) (*oneOf[api.JoinResponse], error) {
	var req api.JoinRequest
	if err := api.ReadStrict(bytes.NewReader(in.RawBody), BodyBytesMax, &req); err != nil {
		return nil, err
	}
	res, err := s.cfg.Control.SignJoin(ctx, req, remoteOf(ctx))
	if err != nil {
		return nil, err
	}
	return &oneOf[api.JoinResponse]{at(s.cfg.State.View().Index()), res}, nil
}
