package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// Bounds of metadata.
const (
	maxLabels          = 64
	maxAnnotations     = 64
	maxAnnotationBytes = 64 << 10
)

var (
	labelName  = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
	labelValue = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$`)
)

// instead says what to do where a kind of the Gateway API is none of ours; empty for other kinds.
func instead(kind string) string {
	switch kind {
	case "BackendTLSPolicy":
		return "services of the mesh are asked by mTLS as it is; for what is outside make an ExternalService with tls"
	case "ListenerSet", "XListenerSet":
		return "write the listeners into the Gateway"
	case "UDPRoute":
		return "only what TCP carries can be meshed"
	case "Namespace":
		return "namespaces come with what is in them; a Gateway selects them by " + NamespaceLabel
	}
	return ""
}

// Validate reports everything that is wrong with a resource as a user wrote it: kind and apiVersion,
// metadata, spec. It returns nil for a resource that every zone of the same release can enforce. It
// looks at nothing but the resource: whether a zone or a service that it names exists is for the caller.
func Validate(res mesh.Resource) []FieldError {
	info, ok := exactKind(res.Kind)
	if !ok {
		f := FieldError{Pointer: "/kind", Code: CodeUnknownKind, Message: fmt.Sprintf("there is no kind %q", clip(string(res.Kind))), Choices: kindNames()}
		if res.Kind == "" {
			f.Code, f.Message = CodeRequired, "is required"
			return []FieldError{f}
		}
		if f.Hint = instead(string(res.Kind)); f.Hint != "" {
			return []FieldError{f}
		}
		f.suggest(string(res.Kind))
		return []FieldError{f}
	}
	r := &report{}
	if res.APIVersion != info.APIVersion {
		r.add(FieldError{
			Pointer: "/apiVersion", Code: CodeUnsupported, Choices: []string{info.APIVersion},
			Message: fmt.Sprintf("%s is not served as %q", info.Kind, clip(res.APIVersion)), Hint: "write apiVersion: " + info.APIVersion,
		})
	}
	validateMetadata(r, info, res)
	spec, err := Decode(res.Kind, res.Spec)
	var invalid *InvalidError
	switch {
	case errors.As(err, &invalid):
		ownRanges(info, res, invalid.Fields)
		for _, f := range invalid.Fields {
			r.add(f)
		}
	case err != nil:
		r.add(FieldError{Pointer: "/spec", Code: CodeInvalid, Message: err.Error()})
	default:
		info.validate(r, res, spec)
	}
	return r.fields
}

// ValidateChange reports what may not be made of a resource that is there: both were validated on their own.
func ValidateChange(old, res mesh.Resource) []FieldError {
	if res.Kind != mesh.KindZone {
		return nil
	}
	was, errOld := DecodeAs[Zone](old)
	is, errNew := DecodeAs[Zone](res)
	if errOld == nil && errNew == nil && was.Revoked != nil && is.Revoked == nil {
		return []FieldError{{
			Pointer: "/spec/revoked", Code: CodeInvalid, Message: "a revocation can't be taken back",
			Hint: "keep it; to let the machines back in, remove the zone and join them as a new one",
		}}
	}
	return nil
}

func validateMetadata(r *report, info KindInfo, res mesh.Resource) {
	name := mesh.CheckSubdomain
	switch info.Kind {
	case mesh.KindZone:
		name = mesh.CheckZoneName
	case mesh.KindService, mesh.KindServiceExport, mesh.KindExternalService:
		name = mesh.CheckLabel
	}
	r.checked("/metadata/name", res.Name, name)
	switch {
	case info.Namespaced:
		r.checked("/metadata/namespace", res.Namespace, mesh.CheckLabel)
	case res.Namespace != "":
		r.add(FieldError{Pointer: "/metadata/namespace", Code: CodeInvalid, Message: fmt.Sprintf("a %s has no namespace", info.Kind), Hint: "leave it out"})
	}
	if len(res.Labels) > maxLabels {
		r.add(FieldError{Pointer: "/metadata/labels", Code: CodeTooLarge, Message: fmt.Sprintf("%d labels; at most %d are allowed", len(res.Labels), maxLabels)})
	}
	validateLabels(r, "/metadata/labels", res.Labels)
	if len(res.Annotations) > maxAnnotations {
		r.add(FieldError{Pointer: "/metadata/annotations", Code: CodeTooLarge, Message: fmt.Sprintf("%d annotations; at most %d are allowed", len(res.Annotations), maxAnnotations)})
	}
	total := 0
	for _, k := range sortedKeys(res.Annotations) {
		total += len(k) + len(res.Annotations[k])
		if err := checkQualified(k); err != nil {
			r.add(FieldError{Pointer: ptr("/metadata/annotations", clip(k)), Code: CodeInvalid, Message: err.Error()})
		}
		// Misspelt, it would be ignored, and the resource would reach every zone.
		if own := annotationsOf(info.Kind); strings.HasPrefix(k, "mesh.comity.dev/") && !slices.Contains(own, k) {
			r.add(FieldError{Pointer: ptr("/metadata/annotations", clip(k)), Code: CodeUnsupported, Message: "there is no such annotation of Comity's", Choices: own})
		}
	}
	if total > maxAnnotationBytes {
		r.add(FieldError{Pointer: "/metadata/annotations", Code: CodeTooLarge, Message: fmt.Sprintf("%d bytes; at most %d are allowed", total, maxAnnotationBytes)})
	}
	validateScope(r, res)
}

// annotationsOf are Comity's own annotations of a kind.
func annotationsOf(kind mesh.Kind) []string {
	switch kind {
	case mesh.KindGateway:
		return []string{mesh.AnnotationZones, AnnotationTrustedHops}
	case mesh.KindHTTPRoute, mesh.KindGRPCRoute:
		return []string{mesh.AnnotationZones, AnnotationCallers}
	}
	return []string{mesh.AnnotationZones}
}

// validateScope checks the zones that a global resource is limited to.
func validateScope(r *report, res mesh.Resource) {
	list, ok := res.Annotations[mesh.AnnotationZones]
	if !ok {
		return
	}
	at := ptr("/metadata/annotations", mesh.AnnotationZones)
	if res.Origin != "" && res.Origin != mesh.OriginGlobal {
		r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: "only resources made at global have a scope; those of a zone stay in it", Hint: "remove the annotation"})
		return
	}
	if strings.TrimSpace(list) == "" {
		r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: "names no zone", Hint: "remove the annotation to reach every zone"})
		return
	}
	for z := range strings.SplitSeq(list, ",") {
		if err := mesh.CheckZoneName(strings.TrimSpace(z)); err != nil {
			r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: err.Error(), Hint: "list zones by name, separated by commas"})
		}
	}
}

func validateLabels(r *report, at string, labels map[string]string) {
	for _, k := range sortedKeys(labels) {
		if err := checkQualified(k); err != nil {
			r.add(FieldError{Pointer: ptr(at, clip(k)), Code: CodeInvalid, Message: err.Error()})
		}
		if !labelValue.MatchString(labels[k]) {
			r.add(FieldError{Pointer: ptr(at, clip(k)), Code: CodeInvalid, Message: fmt.Sprintf("%q must be at most 63 of letters, digits, '-', '_' and '.', beginning and ending with a letter or digit", clip(labels[k]))})
		}
	}
}

// checkQualified checks a key of labels and annotations: an optional DNS prefix, a slash, a name.
func checkQualified(key string) error {
	name := key
	if prefix, rest, ok := strings.Cut(key, "/"); ok {
		if err := mesh.CheckSubdomain(prefix); err != nil {
			return fmt.Errorf("prefix of key %q: it must be a DNS name", clip(key))
		}
		name = rest
	}
	if !labelName.MatchString(name) {
		return fmt.Errorf("key %q must be [prefix/]name, the name at most 63 of letters, digits, '-', '_' and '.', beginning and ending with a letter or digit", clip(key))
	}
	return nil
}

// checked adds "required" for an empty value, and otherwise what the check says.
func (r *report) checked(at, value string, check func(string) error) {
	if value == "" {
		r.required(at)
		return
	}
	if len(value) > 512 {
		r.add(FieldError{Pointer: at, Code: CodeTooLarge, Message: "is much too long"})
		return
	}
	if err := check(value); err != nil {
		r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: err.Error()})
	}
}

// text checks what is written for people and shown on one line.
func (r *report) text(at, s string) {
	if len(s) > 128 {
		r.add(FieldError{Pointer: at, Code: CodeTooLarge, Message: "at most 128 bytes are allowed"})
	}
	if strings.ContainsFunc(s, unicode.IsControl) {
		r.invalid(at, "must not contain control characters")
	}
}

// duration checks a duration that may be left out.
func (r *report) duration(at string, d gatewayv1.Duration, least, most time.Duration) {
	if d == "" {
		return
	}
	t, err := parseDuration(d)
	switch {
	case err != nil:
		r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: fmt.Sprintf("%q is no duration", clip(string(d))), Hint: "write it as 250ms, 10s, 5m or 1h30m"})
	case t < least || t > most:
		r.add(FieldError{Pointer: at, Code: CodeOutOfRange, Message: fmt.Sprintf("must be from %s to %s", short(least), short(most))})
	}
}

// durationOrNone checks a duration that may be left out, or be 0s for none.
func (r *report) durationOrNone(at string, d gatewayv1.Duration, least, most time.Duration) {
	if t, err := parseDuration(d); err != nil || t != 0 {
		r.duration(at, d, least, most)
	}
}

// number checks a number that may be left out.
func (r *report) number(at string, n *uint32, least, most uint32) {
	if n != nil && (*n < least || *n > most) {
		r.add(FieldError{Pointer: at, Code: CodeOutOfRange, Message: fmt.Sprintf("must be from %d to %d", least, most)})
	}
}

// percent checks a share of the requests.
func (r *report) percent(at string, p float64) {
	if !(p > 0 && p <= 100) {
		r.add(FieldError{Pointer: at, Code: CodeOutOfRange, Message: "must be above 0 and at most 100"})
	}
}

func (r *report) required(at string) {
	r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "is required"})
}

func (r *report) invalid(at, format string, a ...any) {
	r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: fmt.Sprintf(format, a...)})
}

func (r *report) unsupported(at, what, hint string) {
	r.add(FieldError{Pointer: at, Code: CodeUnsupported, Message: what + " is not supported yet", Hint: hint})
}

func (r *report) port(at string, port uint16) {
	if port == 0 {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "must be a port from 1 to 65535"})
	}
}

func (r *report) atMost(at string, n, limit int) {
	if n > limit {
		r.add(FieldError{Pointer: at, Code: CodeTooLarge, Message: fmt.Sprintf("%d items; at most %d are allowed", n, limit)})
	}
}

func (r *report) oneOf(at, value string, choices ...string) {
	if slices.Contains(choices, value) {
		return
	}
	var named []string
	for _, c := range choices {
		if c != "" {
			named = append(named, c)
		}
	}
	if value == "" {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "is required", Choices: named})
		return
	}
	f := FieldError{Pointer: at, Code: CodeInvalid, Message: fmt.Sprintf("%q is not one of %s", clip(value), strings.Join(named, ", ")), Choices: named}
	f.suggest(value)
	r.add(f)
}
