package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"vcn/api"
)

// problemType is the media type of every error answer (RFC 9457).
const problemType = "application/problem+json"

// problem is api.Problem as huma wants its errors. Its name makes the schema
// "Problem" in the OpenAPI document.
type problem api.Problem

// Error returns the text for people.
func (p *problem) Error() string { return (*api.Problem)(p).Error() }

// GetStatus returns the HTTP status.
func (p *problem) GetStatus() int { return p.Status }

// ContentType replaces plain JSON by problem+json.
func (p *problem) ContentType(string) string { return problemType }

// GetHeaders returns what the answer carries beside its body.
func (p *problem) GetHeaders() http.Header { return problemHeaders((*api.Problem)(p)) }

// retryAfterSeconds is what a client is told to wait before it asks again.
const retryAfterSeconds = 1

func problemHeaders(p *api.Problem) http.Header {
	h := http.Header{}
	switch p.Code {
	case api.CodeNoLeader, api.CodeForming:
		if p.Status == http.StatusGatewayTimeout {
			break // what may have been done is not to be repeated blindly
		}
		h.Set("Retry-After", strconv.Itoa(retryAfterSeconds))
	case api.CodeUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="vcn"`)
	}
	return h
}

// installErrors makes huma speak api.Problem. huma keeps its error maker in a
// package variable, so this is done once for the process; only this package
// uses huma.
var installErrors = sync.OnceFunc(func() {
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		return (*problem)(fromHuma(status, msg, errs))
	}
})

func fromHuma(status int, msg string, errs []error) *api.Problem {
	p := &api.Problem{Status: status, Title: http.StatusText(status), Detail: msg, Code: api.CodeOf(status)}
	if status == http.StatusUnprocessableEntity || status == http.StatusBadRequest {
		p.Detail = "the request is not valid: " + msg
	}
	for _, err := range errs {
		var d *huma.ErrorDetail
		var dd huma.ErrorDetailer
		switch {
		case err == nil:
		case errors.As(err, &d):
			p.Errors = append(p.Errors, fieldError(d))
		case errors.As(err, &dd):
			p.Errors = append(p.Errors, fieldError(dd.ErrorDetail()))
		case p.Code == api.CodeInternal:
			// An unexpected error's text may hold anything; it is logged, not sent.
		default:
			p.Errors = append(p.Errors, api.FieldError{Field: "body", Want: err.Error()})
		}
	}
	if p.Code == api.CodeInvalid {
		p.Next = "correct the fields named above; /docs lists what each request takes"
	}
	return p
}

// fieldValueMax bounds how much of a wrong value is sent back, in bytes.
const fieldValueMax = 120

// fieldError turns huma's location and message into field, value and want.
func fieldError(d *huma.ErrorDetail) api.FieldError {
	field := d.Location
	for _, prefix := range []string{"body.", "query.", "path.", "header."} {
		field = strings.TrimPrefix(field, prefix)
	}
	e := api.FieldError{Field: field, Want: want(d.Message)}
	if name, ok := strings.CutPrefix(d.Message, "expected required property "); ok {
		name = strings.TrimSuffix(name, " to be present")
		if field == "body" {
			e.Field = name
		} else {
			e.Field = field + "." + name
		}
		e.Want = "a value; it is required"
		return e
	}
	switch v := d.Value.(type) {
	case string:
		e.Value = v
	case float64, int, int64, bool:
		e.Value = fmt.Sprint(v)
	}
	if len(e.Value) > fieldValueMax {
		e.Value = e.Value[:fieldValueMax] + "…"
	}
	return e
}

func want(msg string) string {
	switch {
	case msg == "unexpected property":
		return "no such field here"
	case msg == "unknown query parameter":
		return "nothing; there is no such query parameter"
	case strings.HasPrefix(msg, "expected string to be "):
		return strings.TrimPrefix(msg, "expected string to be ")
	case strings.HasPrefix(msg, "expected "):
		return strings.TrimPrefix(msg, "expected ")
	}
	return msg
}

// newProblem makes a Problem.
func newProblem(status int, code api.Code, detail, next string) *api.Problem {
	return &api.Problem{Status: status, Title: http.StatusText(status), Detail: detail, Code: code, Next: next}
}

// outcomeUnknown says that a request was passed on and its answer lost. It is 504:
// on 503 nothing was done, and clients repeat what they sent.
func outcomeUnknown(detail string) *api.Problem {
	return newProblem(http.StatusGatewayTimeout, api.CodeNoLeader, detail, "look whether it was done (vcnctl list, vcnctl show), then repeat it if not")
}

// noLeader says that nobody leads now.
func noLeader(detail string) *api.Problem {
	return newProblem(http.StatusServiceUnavailable, api.CodeNoLeader, detail,
		"try again in a moment; a new leader is usually chosen within a second. If it lasts, half of the voters or more may be down: tell the operator")
}
