package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
)

// fieldRule is what reading knows of a field beyond its type, so that the first
// message already says what is right in the end: whoever is told to put a
// number in quotes does not want to be told next that it is wrong all the same.
type fieldRule struct {
	want    string         // of text: what is right
	shape   *regexp.Regexp // of text: what would pass if it were put in quotes; nil: nothing
	notZero string         // of sizes: what is right, where writing 0 would silently mean the default
}

// fieldRules are by type and JSON name.
var fieldRules = map[reflect.Type]map[string]fieldRule{
	reflect.TypeFor[Spec](): {
		"name":    {want: wantName, shape: nameShape},
		"project": {want: wantName, shape: nameShape},
		"rolls":   {want: wantRoll, shape: rollShape},
	},
	reflect.TypeFor[Slot](): {
		"start": {want: wantStart},
		"end":   {want: wantTime},
		"for":   {want: wantDuration},
	},
	reflect.TypeFor[NodeShape](): {
		"cpus":   {notZero: fmt.Sprintf("1 to %d", CPUsMax)},
		"memory": {notZero: fmt.Sprintf("%s to %s", MemoryMin, MemoryMax)},
		"disk":   {notZero: fmt.Sprintf("%s to %s", DiskMin, DiskMax)},
	},
	reflect.TypeFor[WorkerGroup](): {
		"name":      {want: wantGroup, shape: groupShape},
		"appliance": {want: wantName, shape: nameShape},
	},
	reflect.TypeFor[User](): {
		"name": {want: wantUser, shape: userShape},
		"keys": {want: wantKey},
	},
	reflect.TypeFor[TokenRequest](): {
		"kind":    {want: wantTokenKind},
		"project": {want: wantName, shape: nameShape},
		"for":     {want: wantTokenLife},
	},
}

// wantText says what is right where text should be and something else is.
func (r fieldRule) wantText(plain string) string {
	if r.want == "" || r.shape != nil && r.shape.MatchString(plain) {
		return "text; put it in quotes"
	}
	return r.want
}

// wantNumber says what is right where a number should be and something else is.
func wantNumber(v any) string {
	if s, ok := v.(string); ok {
		if _, err := strconv.ParseInt(s, 10, 64); err == nil {
			return "a whole number, without quotes: " + s
		}
	}
	return "a whole number"
}

// isZero is true of a number or size that was written and is nothing.
func isZero(v any) bool {
	switch x := v.(type) {
	case json.Number:
		n, err := x.Int64()
		return err == nil && n == 0
	case string:
		q, err := ParseQuantity(x)
		return err == nil && q == 0
	}
	return false
}
