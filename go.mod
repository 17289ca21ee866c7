module github.com/comity-mesh/comity

go 1.26.8
