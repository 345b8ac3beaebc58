package httpapi

import (
	"context"
	"net/http"
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"vcn/api"
)

// Names of the security schemes in the OpenAPI document.
const (
	securityName     = "token"
	securityFeedName = "feed"
)

func apiConfig(version string) huma.Config {
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	// huma does not inline a struct whose json tag says so, and would refuse
	// what encoding/json takes.
	registry.RegisterTypeAlias(reflect.TypeFor[api.WorkerGroup](), reflect.TypeFor[workerGroup]())
	registry.RegisterTypeAlias(reflect.TypeFor[api.Quantity](), reflect.TypeFor[quantity]())
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "vcn", Version: version,
				Description: "Virtual clusters by reservation. Any host of the cluster of hosts answers; what changes something is carried out by the one that leads. " +
					"Errors are application/problem+json (RFC 9457) with a code for programs and a next step for people. " +
					"Bodies may be JSON or YAML; unknown fields are refused.",
			},
			Components: &huma.Components{
				Schemas: registry,
				SecuritySchemes: map[string]*huma.SecurityScheme{
					securityName:     {Type: "http", Scheme: "bearer", Description: "A token made by vcnctl token create: operator, project or join."},
					securityFeedName: {Type: "apiKey", In: "query", Name: "feed", Description: "The key of a feed, made by vcnctl calendar feed."},
				},
			},
		},
		Formats:       huma.DefaultFormats,
		DefaultFormat: "application/json",
		// Unknown query parameters are refused like unknown fields.
		RejectUnknownQueryParameters: true,
	}
}

// workerGroup is api.WorkerGroup as encoding/json reads it, for the schema.
type workerGroup struct {
	Name  string `json:"name,omitempty" doc:"prefix of the node names, 1-30 of a-z, 0-9 and '-'; default compute"`
	Count int    `json:"count" minimum:"1" maximum:"1000" doc:"1-1000"`
	api.NodeShape
	Appliance string `json:"appliance,omitempty" doc:"default: worker"`
}

// quantity is api.Quantity's schema.
type quantity string

// Schema describes a number of bytes with a binary unit.
func (quantity) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "quantity", Pattern: `^(0|[0-9]+(KiB|MiB|GiB|TiB|B))?$`,
		Examples: []any{"4GiB"}, Description: "a number of bytes with a binary unit: 512MiB, 4GiB"}
}

// operation describes one route. text is its description; who may call it
// follows from a. more are statuses of errors beside those of every route.
func operation(id, method, path, summary, text string, status int, a access, more ...int) huma.Operation {
	op := huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, Description: text, DefaultStatus: status,
		MaxBodyBytes: BodyBytesMax,
		Metadata:     map[string]any{metaAccess: a},
		Errors: append([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusMisdirectedRequest,
			http.StatusUnprocessableEntity, http.StatusServiceUnavailable}, more...),
		Security:  []map[string][]string{{securityName: {}}},
		Responses: map[string]*huma.Response{strconv.Itoa(status): {Description: http.StatusText(status)}},
	}
	if method != http.MethodGet && method != http.MethodDelete && method != http.MethodPut {
		op.Errors = append(op.Errors, http.StatusGatewayTimeout) // see outcomeUnknown
	}
	if method == http.MethodGet {
		op.Responses[strconv.Itoa(status)].Headers = map[string]*huma.Header{api.HeaderStale: {
			Description: "true: no host leads now, and the answer is of this host's own state, which may be behind",
			Schema:      &huma.Schema{Type: huma.TypeString, Enum: []any{"true"}},
		}}
	}
	return op
}

// jsonAnswer describes an answer of one of some types, where no handler's type
// tells it.
func jsonAnswer(s *Server, description string, types ...reflect.Type) *huma.Response {
	index, _ := reflect.TypeFor[Indexed]().FieldByName("Index")
	schemas := s.api.OpenAPI().Components.Schemas
	schema := &huma.Schema{}
	for _, t := range types {
		schema.OneOf = append(schema.OneOf, schemas.Schema(t, true, ""))
	}
	if len(types) == 1 {
		schema = schema.OneOf[0]
	}
	return &huma.Response{
		Description: description,
		Content:     map[string]*huma.MediaType{"application/json": {Schema: schema}},
		Headers:     map[string]*huma.Header{api.HeaderIndex: {Schema: huma.SchemaFromField(schemas, index, "")}},
	}
}

// add registers an operation whose handler may return any error.
func add[I, O any](s *Server, op huma.Operation, h func(context.Context, *I) (*O, error)) {
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		if err != nil {
			return nil, s.failure(op.OperationID, err)
		}
		return out, nil
	})
}

// addBody registers an operation with a body of type B, which is read strictly
// by the contract's own reader: one set of messages for files, flags and requests.
func addBody[B, I, O any](s *Server, op huma.Operation, h func(context.Context, *I) (*O, error)) *huma.RequestBody {
	schema := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[B](), true, "")
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/json": {Schema: schema}, "application/yaml": {Schema: schema}}}
	op.SkipValidateBody = true
	op.Errors = append(op.Errors, http.StatusRequestEntityTooLarge, http.StatusConflict)
	add(s, op, h)
	return op.RequestBody // which is required, unless the caller says otherwise
}

// failure makes an answer of an error. What no asker can do anything about is
// logged here and only here.
func (s *Server) failure(operation string, err error) error {
	p := asProblem(err)
	if p.Code == api.CodeInternal {
		s.cfg.Log.Error("request failed", "operation", operation, "err", err)
	}
	return (*problem)(p)
}

// Indexed is embedded in answers that say which state they reflect. It is exported,
// like the other embedded ones, because huma does not look into unexported fields.
type Indexed struct {
	Index string `header:"X-Vcn-Index" doc:"Raft index that the answer reflects"`
}

func at(index uint64) Indexed { return Indexed{strconv.FormatUint(index, 10)} }

type listOf[T any] struct {
	Indexed
	Body api.List[T]
}

type oneOf[T any] struct {
	Indexed
	Body T
}

type nothing struct{}

func listAt[T any](index uint64, items []T) *listOf[T] {
	return &listOf[T]{at(index), api.List[T]{Items: orEmpty(items)}}
}

func (s *Server) registerOperations() {
	add(s, operation("getStatus", http.MethodGet, api.PathStatus, "The cluster of hosts at a glance", "", 200, forOwner),
		func(context.Context, *nothing) (*oneOf[api.Status], error) {
			st := s.status()
			return &oneOf[api.Status]{at(st.Index), st}, nil
		})
	s.registerReservations()
	s.registerChanges()
	s.registerOffers()
	s.registerSeries()
	s.registerCalendar()
	s.registerOperator()
	add(s, operation("listRolls", http.MethodGet, api.PathRolls, "The rolls there are", "", 200, forOwner),
		func(context.Context, *nothing) (*listOf[api.Roll], error) {
			return listAt(s.cfg.State.View().Index(), s.cfg.Control.Rolls()), nil
		})
	add(s, operation("listImages", http.MethodGet, api.PathImages, "The images there are or will be", "", 200, forOwner),
		func(context.Context, *nothing) (*listOf[api.Image], error) {
			v := s.cfg.State.View()
			return listAt(v.Index(), s.newShower(v).images()), nil
		})
	add(s, operation("listLeases", http.MethodGet, api.PathLeases, "Who holds which VLAN, subnet, MAC and public address",
		"A project's token sees its own project's.", 200, forOwner), s.listLeases)
}
