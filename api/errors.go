package api

import (
	"fmt"
	"strings"
)

// Code is an error's identity on the wire. Text is for people, codes are for
// programs.
type Code string

const (
	CodeInvalid      Code = "invalid"       // 400/422: a field is wrong
	CodeUnauthorized Code = "unauthorized"  // 401: no token, unknown or expired
	CodeForbidden    Code = "forbidden"     // 403: token may not do this
	CodeNotFound     Code = "not_found"     // 404
	CodeConflict     Code = "conflict"      // 409: name taken, state forbids
	CodeNoFit        Code = "no_fit"        // 409: no capacity; Reasons says why
	CodeExpired      Code = "expired"       // 409: an offer's hold is over
	CodeDataLoss     Code = "data_loss"     // 409: the change loses data and was not confirmed
	CodeForming      Code = "forming"       // 503: voters are still missing
	CodeNoLeader     Code = "no_leader"     // 503: nothing was done, retry; 504: it may have been done, look first
	CodeTooLarge     Code = "too_large"     // 413
	CodeInternal     Code = "internal"      // 500
	CodeUnavailable  Code = "unavailable"   // never sent by a host: a client's word that no host answered
	CodeInterrupted  Code = "interrupted"   // never sent by a host: a client was told to stop
	CodeWrongCluster Code = "wrong_cluster" // 421: token or certificate of another cluster of hosts
)

// CodeOf is the code of an answer that carries none but its HTTP status. The
// statuses are numbers here: fsm uses this package, and nothing that fsm uses
// may reach the network, which net/http would.
func CodeOf(status int) Code {
	switch status {
	case 400, 405, 406, 415, 422:
		return CodeInvalid
	case 401:
		return CodeUnauthorized
	case 403:
		return CodeForbidden
	case 404:
		return CodeNotFound
	case 409:
		return CodeConflict
	case 413:
		return CodeTooLarge
	case 421:
		return CodeWrongCluster
	case 502, 503, 504:
		return CodeNoLeader
	}
	return CodeInternal
}

// FieldError names a field, its value and what would be right.
type FieldError struct {
	Field string `json:"field" doc:"path in the request, such as workers[0].memory"`
	Value string `json:"value,omitempty"`
	Want  string `json:"want"`
}

// String is field: "value": want what; parts that are empty are left out.
func (e FieldError) String() string {
	var b strings.Builder
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	if e.Value != "" {
		v := e.Value
		if len(v) > fieldValueMax {
			v = v[:fieldValueMax] + "..."
		}
		fmt.Fprintf(&b, "%q: ", v)
	}
	return b.String() + "want " + e.Want
}

// fieldValueMax bounds how many bytes of a wrong value are repeated.
const fieldValueMax = 80

// Error is String, so that a single FieldError can be an error.
func (e FieldError) Error() string { return e.String() }

// Invalid is the Problem of wrong fields: status 422, code invalid.
func Invalid(detail string, errs []FieldError) *Problem {
	return &Problem{Title: "Unprocessable Entity", Status: 422, Code: CodeInvalid, Detail: detail, Errors: errs}
}

// Problem is the body of every error answer (RFC 9457, application/problem+json).
type Problem struct {
	Type    string       `json:"type,omitempty"`
	Title   string       `json:"title,omitempty"`
	Status  int          `json:"status"`
	Detail  string       `json:"detail"`
	Code    Code         `json:"code" enum:"invalid,unauthorized,forbidden,not_found,conflict,no_fit,expired,data_loss,forming,no_leader,too_large,internal,wrong_cluster"`
	Errors  []FieldError `json:"errors,omitempty"`
	Reasons []string     `json:"reasons,omitempty" doc:"with no_fit: what is short, where"`
	Next    string       `json:"next,omitempty" doc:"what to do about it"`
	Nearest []Offer      `json:"nearest,omitempty" doc:"with no_fit: the nearest that would fit; nothing is held for it"`
	Until   string       `json:"until,omitempty" doc:"with a refused extension: the longest possible end"`
}

func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Detail)
	for _, e := range p.Errors {
		b.WriteString("\n  " + e.String())
	}
	for _, r := range p.Reasons {
		b.WriteString("\n  " + r)
	}
	for i, o := range p.Nearest {
		if i == 0 {
			b.WriteString("\nWhat would fit:")
		}
		b.WriteString("\n  " + o.Summary)
	}
	if p.Next != "" {
		b.WriteString("\n" + p.Next)
	}
	return b.String()
}
