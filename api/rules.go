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
		"start":  {want: wantStart},
		"latest": {want: wantTime},
		"end":    {want: wantTime},
		"for":    {want: wantDuration},
		"zone":   {want: wantZone},
		"repeat": {want: wantRepeat},
		"except": {want: wantExcept},
	},
	reflect.TypeFor[AtEnd](): {
		"action":  {want: wantAction},
		"grace":   {want: wantGrace},
		"parkFor": {want: wantPark},
		"warn":    {want: wantWarn},
	},
	reflect.TypeFor[Notify](): {
		"webhook": {want: wantWebhook},
		"mail":    {want: wantMail},
	},
	reflect.TypeFor[OfferRequest](): {
		"lengthMin": {want: wantDuration},
		"latest":    {want: wantTime},
		"hold":      {want: wantHold},
	},
	reflect.TypeFor[Change](): {
		"name":     {want: wantName, shape: nameShape},
		"start":    {want: wantStart},
		"end":      {want: wantTime},
		"for":      {want: wantDuration},
		"extend":   {want: wantDuration},
		"shorten":  {want: wantDuration},
		"workers":  {want: wantCounts},
		"remove":   {want: wantNode},
		"deadline": {want: wantDeadline},
		"shapes":   {want: wantShapes},
		"rolls":    {want: wantRoll, shape: rollShape},
	},
	reflect.TypeFor[ParkRequest](): {
		"for": {want: wantPark},
	},
	reflect.TypeFor[FeedRequest](): {
		"project": {want: wantName, shape: nameShape},
		"for":     {want: wantFeedLife},
	},
	reflect.TypeFor[Policy](): {
		"holdMax":   {want: wantHold},
		"parkMax":   {want: wantPark},
		"seriesMax": {notZero: fmt.Sprintf("1 to %d", PolicySeriesMax)},
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

// wantMap says what is right where names with values should be.
func (r fieldRule) wantMap() string {
	if r.want == "" {
		return "names with values, such as {a: 1}"
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
