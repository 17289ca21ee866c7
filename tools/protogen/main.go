// Command protogen turns the repository's .proto files into Go code beside them. It compiles them in
// Go and hands the result to the two official plugins, so that generating needs neither protoc nor
// Python and depends on nothing that go.sum does not pin.
//
//	protogen -root <repository> -plugins <folder with protoc-gen-go, protoc-gen-go-grpc> <file.proto>...
//
// File names are relative to the root. The comments of the .proto files become doc comments.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// plugins are run in this order; both write beside the .proto file.
var plugins = []struct{ program, parameter string }{
	{"protoc-gen-go", "paths=source_relative"},
	{"protoc-gen-go-grpc", "paths=source_relative"},
}

func main() {
	root := flag.String("root", ".", "the repository; names of files are relative to it")
	bin := flag.String("plugins", "", "folder with the plugins")
	flag.Parse()
	if err := run(context.Background(), *root, *bin, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root, bin string, files []string) error {
	if len(files) == 0 {
		return errors.New("name at least one .proto file")
	}
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	compiled, err := compiler.Compile(ctx, files...)
	if err != nil {
		return err // names file, line and column itself
	}
	request := &pluginpb.CodeGeneratorRequest{FileToGenerate: files, ProtoFile: inOrder(compiled)}
	for _, p := range plugins {
		request.Parameter = proto.String(p.parameter)
		response, err := call(ctx, filepath.Join(bin, p.program), request)
		if err != nil {
			return fmt.Errorf("%s: %w", p.program, err)
		}
		for _, f := range response.GetFile() {
			// gosec: generated sources are meant to be read by everybody, like the rest of the tree.
			if err := os.WriteFile(filepath.Join(root, f.GetName()), []byte(f.GetContent()), 0o644); err != nil { //nolint:gosec
				return err
			}
			fmt.Println("protogen: wrote", f.GetName())
		}
	}
	return nil
}

// inOrder lists the files and all they import, each after its imports, as the plugin protocol demands.
func inOrder(files linker.Files) []*descriptorpb.FileDescriptorProto {
	var out []*descriptorpb.FileDescriptorProto
	seen := map[string]bool{}
	var visit func(protoreflect.FileDescriptor)
	visit = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			visit(f.Imports().Get(i).FileDescriptor)
		}
		out = append(out, protoutil.ProtoFromFileDescriptor(f))
	}
	for _, f := range files {
		visit(f)
	}
	return out
}

func call(ctx context.Context, program string, request *pluginpb.CodeGeneratorRequest) (*pluginpb.CodeGeneratorResponse, error) {
	in, err := proto.Marshal(request)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	response := &pluginpb.CodeGeneratorResponse{}
	if err := proto.Unmarshal(out.Bytes(), response); err != nil {
		return nil, err
	}
	if response.Error != nil {
		return nil, errors.New(response.GetError())
	}
	return response, nil
}
